"""Importing the package: what it registers, what it leaves for later, and the names that it gives."""

import ast
import importlib.metadata
import json
import subprocess
import sys

import pytest

import modeling_cpsl


# What `import modeling_cpsl` adds to what transformers' Auto classes import anyway.
PRINT_IMPORTED_MODULES = """
import json, sys
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoProcessor
before = set(sys.modules)
import modeling_cpsl
print(json.dumps([sorted(set(sys.modules) - before), sorted(sys.modules)]))
"""
HEAVY = ("data_builders", "datasets", "evaluate", "h5py", "matplotlib", "pandas", "pyarrow", "sklearn")
HEAVY += ("scipy.stats", "transformers.trainer", "transformers.training_args")


@pytest.fixture(scope="module")
def imported(repository):
    command = [sys.executable, "-c", PRINT_IMPORTED_MODULES]
    process = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(process.stdout)


def test_the_import_costs_little_more_than_transformers_auto_classes(imported):
    added, everything = imported
    assert not [name for name in everything if name in HEAVY]
    assert {name.split(".")[0] for name in added} <= {"modeling_cpsl", "transformers"}
    others = [name for name in added if name.startswith("modeling_cpsl.") and not name.endswith("_cpsl")]
    assert others == [], "training, experiments and modulation wait until they are used"
    text_encoders = ("transformers.models.bert", "transformers.models.deberta_v2", "transformers.models.mpnet")
    models = [name for name in added if name.startswith("transformers.models.")]
    assert [name for name in models if not name.startswith(text_encoders)] == []


def test_every_public_name_is_there_and_listed():
    for name in modeling_cpsl.__all__:
        assert getattr(modeling_cpsl, name).__name__ == name
    assert {*modeling_cpsl.__all__, "__version__"} <= set(dir(modeling_cpsl))
    assert sorted(modeling_cpsl.__all__) == modeling_cpsl.__all__


def test_type_checkers_see_the_lazy_names(repository):
    tree = ast.parse((repository / "modeling_cpsl" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    seen = {alias.name: f".{imports.module}" for imports in block.body for alias in imports.names}
    assert seen == modeling_cpsl._LAZY_NAMES
    assert set(seen) <= set(modeling_cpsl.__all__)


def test_the_version_is_that_of_the_distribution():
    assert modeling_cpsl.__version__ == importlib.metadata.version("cpsl")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'modeling_cpsl' has no attribute 'CPSLTrainr'"):
        modeling_cpsl.CPSLTrainr  # noqa: B018

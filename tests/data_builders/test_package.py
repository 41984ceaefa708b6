"""What `data_builders` gives, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import data_builders


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        # Everything imports these, the help of the command line too.
        (
            "import data_builders, data_builders.files, data_builders.formats",
            {"datasets", "h5py", "matplotlib", "numpy", "pandas", "pyarrow", "torch", "transformers"},
        ),
        (
            "from data_builders import *; import data_builders.inspection",
            {"h5py", "matplotlib", "torch", "transformers"},
        ),
    ],
)
def test_what_is_not_used_is_not_imported(statement, absent):
    code = f"import sys\n{statement}\nprint({absent} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert result.stdout == "set()\n"


def test_the_names_for_type_checkers_are_those_that_come_when_they_are_used():
    tree = ast.parse(Path(data_builders.__file__).read_text())
    imported = {
        alias.name
        for block in tree.body
        if isinstance(block, ast.If)
        for statement in block.body
        for alias in statement.names
    }
    assert imported == set(data_builders.__all__) <= set(dir(data_builders))
    assert all(getattr(data_builders, name).__name__ == name for name in data_builders.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'load_dataset'"):
        data_builders.load_dataset  # noqa: B018


def test_the_range_of_labels_stands_once():
    package = Path(data_builders.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text()
        assert "[-3, 3]" not in text and ("(-3.0, 3.0)" in text) == (path == package / "labels.py"), path

"""A saved or pushed folder works with transformers and torch alone; what travels is what is needed and no more."""

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from fake_hub import running_hub
from forked import ForkedProcess
from packaging.requirements import Requirement
from training_cases import make_trainer
from transformers import AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer

import modeling_cpsl
from modeling_cpsl import CPSLProcessor, MultimodalSentimentPipeline


BACKBONES = ("deberta", "bert", "mpnet")
SIZES = {"acoustic": 5, "visual": 3}
PACKAGE = Path(modeling_cpsl.__file__).parent
FLAT_FILES = {path.name: ast.parse(path.read_text()) for path in PACKAGE.glob("*_cpsl.py")}


def imports_of(tree):
    """The modules that a file imports anywhere, those of the package as `.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def code_for(*names):
    """These flat files and all that they import of each other."""
    found, to_read = set(), set(names)
    while to_read:
        name = to_read.pop()
        found.add(name)
        to_read |= {f"{module[1:]}.py" for module in imports_of(FLAT_FILES[name]) if module[0] == "."} - found
    return found


MODEL_FILES = {"config.json", "model.safetensors"}
MODEL_CODE = code_for("modeling_cpsl.py")
PROCESSOR_FILES = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
PROCESSOR_CODE = code_for("processing_cpsl.py")
SAVED = MODEL_FILES | MODEL_CODE | PROCESSOR_FILES | PROCESSOR_CODE
# The hard dependencies of transformers that the flat files may use.
ALLOWED_IMPORTS = {"torch", "numpy", "regex", "transformers", "huggingface_hub", "safetensors"}
UTTERANCES = [
    {"words": ["this", "movie", "was", "really", "great"]},
    {"words": ["terrible", "ending"], "missing": "acoustic"},
    {"words": ["the", "wonderful", "movie"], "missing": "visual"},
]

# Loads each folder, predicts, saves what it loaded beside it, and loads and predicts again.
LOAD_WITHOUT_THE_PACKAGE = """
import importlib.util, json, sys
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor, pipeline

names, inputs, targets = map(json.loads, sys.argv[1:4])
torch.set_num_threads(1)
def predict(name):
    config, model, processor = (auto_class.from_pretrained(name, trust_remote_code=True)
                                for auto_class in (AutoConfig, AutoModelForSequenceClassification, AutoProcessor))
    for thing in (config, model, processor):
        assert type(thing).__module__.startswith("transformers_modules."), type(thing)
    assert type(AutoModel.from_pretrained(name, trust_remote_code=True)) is type(model)
    with torch.no_grad():
        return model(**processor(**inputs)).logits.tolist(), model, processor

results = {}
for name, target in zip(names, targets):
    logits, model, processor = predict(name)
    model.save_pretrained(target)
    processor.save_pretrained(target)
    results[name] = [logits, predict(target)[0]]
if len(sys.argv) > 4:
    keys = [key for key in inputs if key != "words"]
    items = [{"words": words, **{key: inputs[key][i] for key in keys}} for i, words in enumerate(inputs["words"])]
    for key, name in (("pipeline", sys.argv[4]), ("pipeline of a model", names[0])):
        pipe = pipeline("multimodal-sentiment", model=name, trust_remote_code=True)
        results[key] = [result["score"] for result in pipe(items, batch_size=2)]
absent = ("modeling_cpsl", "data_builders", "datasets", "accelerate", "scipy", "sklearn", "pandas", "sentencepiece")
assert not [name for name in absent if importlib.util.find_spec(name)], "the environment must lack them"
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def inputs():
    generator = np.random.default_rng(0)
    words = [utterance["words"] for utterance in UTTERANCES]
    features = {
        name: [
            None
            if utterance.get("missing") == name
            else generator.normal(size=(len(utterance["words"]), size)).tolist()
            for utterance in UTTERANCES
        ]
        for name, size in SIZES.items()
    }
    return {"words": words, **features}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_model, unigram_tokenizer):
    """A model of each backbone with its processor."""
    folder = tmp_path_factory.mktemp("saved")
    statistics = {"visual": {"mean": [0.5, 0.0, -1.0], "std": [1.0, 2.0, 0.5]}}
    for backbone in BACKBONES:
        model = make_model(backbone, vocab_size=len(unigram_tokenizer))
        model.save_pretrained(folder / backbone)
        CPSLProcessor(unigram_tokenizer, SIZES, statistics).save_pretrained(folder / backbone)
    return folder


class TestFlatFiles:
    """The rule of `modeling_cpsl/__init__.py`: exactly the files `*_cpsl.py` travel to the Hub."""

    @pytest.mark.parametrize("name", sorted(FLAT_FILES))
    def test_they_import_hard_dependencies_of_transformers_and_each_other(self, name):
        required = {Requirement(line).name for line in importlib.metadata.requires("transformers")}
        for module in imports_of(FLAT_FILES[name]):
            if module.startswith("."):
                assert f"{module[1:]}.py" in FLAT_FILES, f"{name} imports {module}"
            else:
                assert module.split(".")[0] in ALLOWED_IMPORTS | sys.stdlib_module_names, f"{name} imports {module}"
        assert ALLOWED_IMPORTS - {"torch", "transformers"} <= {name.replace("-", "_") for name in required}

    def test_each_of_them_travels(self):
        """With a model, whose folder is all that a pipeline needs."""
        assert set(FLAT_FILES) == MODEL_CODE

    def test_a_config_alone_brings_what_it_needs(self, make_config, tmp_path):
        make_config().save_pretrained(tmp_path)
        assert files_in(tmp_path) == {"config.json"} | code_for("configuration_cpsl.py")


def predict(folder, inputs):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        return model(**processor(**inputs)).logits


def files_in(folder):
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def environment(folder, **variables):
    """This process's variables, with caches in a folder of the test, and no Hub but the one given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    offline = {} if "HF_ENDPOINT" in variables else {"HF_HUB_OFFLINE": "1"}
    return kept | offline | {"HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"} | variables


def run(command, env, cwd):
    process = subprocess.run(list(map(str, command)), env=env, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-4000:]
    return process.stdout


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python command that sees torch, transformers and what these require, out of this environment's packages."""
    site = tmp_path_factory.mktemp("site")
    names, seen = ["torch", "transformers"], set()
    while names:
        name = names.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        requirements = map(Requirement, distribution.requires or [])
        names += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
        for entry in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / entry).exists():
                (site / entry).symlink_to(distribution.locate_file(entry).resolve())
    return [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.append({str(site)!r})\n" + LOAD_WITHOUT_THE_PACKAGE,
    ]


class TestWithoutThePackage:
    def check(self, python, folders, inputs, tmp_path):
        """Logits of all backbones, those of what was saved again from there, and the pipeline's scores."""
        model, processor = (
            auto_class.from_pretrained(folders / "deberta")
            for auto_class in (AutoModelForSequenceClassification, AutoProcessor)
        )
        MultimodalSentimentPipeline(model=model, processor=processor).save_pretrained(tmp_path / "pipeline")
        sources = [str(folders / backbone) for backbone in BACKBONES]
        targets = [str(tmp_path / backbone) for backbone in BACKBONES]
        arguments = [json.dumps(sources), json.dumps(inputs), json.dumps(targets), tmp_path / "pipeline"]
        results = json.loads(run([*python, *arguments], environment(tmp_path), tmp_path).splitlines()[-1])
        for source, target in zip(sources, targets, strict=True):
            expected = predict(source, inputs)
            for logits in (*results[source], predict(target, inputs)):
                torch.testing.assert_close(torch.as_tensor(logits), expected, rtol=0, atol=1e-6)
            assert files_in(target) == files_in(source) == SAVED
            for name in SAVED - MODEL_FILES - {"tokenizer_config.json"}:
                assert Path(target, name).read_bytes() == Path(source, name).read_bytes(), name
        expected = predict(sources[0], inputs).clamp(-3, 3).tolist()
        for name in ("pipeline", "pipeline of a model"):
            assert results[name] == pytest.approx(expected, rel=0, abs=1e-5)
        assert files_in(tmp_path / "pipeline") == SAVED

    @pytest.mark.slow
    def test_fresh_environment(self, bare_python, folders, inputs, tmp_path, repository):
        """A new virtual environment into which pip puts torch and transformers and nothing else.

        Where there is no package index, all other packages are hidden.
        """
        constraints = (repository / "constraints.txt").read_text().splitlines()
        torch_pin = next(line for line in constraints if line.startswith("torch=="))
        subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=300)
        python = tmp_path / "venv" / "bin" / "python"
        # One process will run in it, for which the modules that it does not import need not be compiled.
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        # As in the Makefile: the CPU build where the index has it.
        subprocess.run([*install, f"{torch_pin}+cpu"], capture_output=True, timeout=1800)
        command = [*install, "--constraint", repository / "constraints.txt", "torch", "transformers"]
        installed = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        is_fresh = installed.returncode == 0
        python = [python, "-I", "-c", LOAD_WITHOUT_THE_PACKAGE] if is_fresh else bare_python
        self.check(python, folders, inputs, tmp_path)

    def test_the_saved_code_is_the_packages(self, folders):
        for backbone in BACKBONES:
            for name in SAVED - MODEL_FILES - PROCESSOR_FILES:
                assert (folders / backbone / name).read_bytes() == (PACKAGE / name).read_bytes()

    def test_the_tokenizer_alone(self, folders):
        """The processor's `auto_map` also stands in the tokenizer's file, which must not mislead AutoTokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(folders / "deberta", trust_remote_code=True)
        assert type(tokenizer).__module__.startswith("transformers.")


def test_what_the_trainer_saves_brings_its_code(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.save_model()
    assert files_in(trainer.args.output_dir) == SAVED
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_cpsl.CPSLConfig",
        "AutoModel": "modeling_cpsl.CPSLForSentimentRegression",
        "AutoModelForSequenceClassification": "modeling_cpsl.CPSLForSentimentRegression",
    }
    assert json.loads((tmp_path / "run" / "processor_config.json").read_text())["auto_map"] == {
        "AutoProcessor": "processing_cpsl.CPSLProcessor"
    }


def push(folder, endpoint):
    """Pushes a model, its processor and their pipeline; for a process of its own, whose Hub it changes."""
    huggingface_hub.constants.HF_HUB_OFFLINE = False
    huggingface_hub.constants.ENDPOINT = huggingface_hub.hf_api.api.endpoint = endpoint
    transformers.utils.hub._hf_api = None  # an earlier test of this process may have made it, with the real endpoint
    # Made of the endpoint when it is imported: files would be asked of the real Hub, and that again and again.
    huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    os.environ["HF_TOKEN"] = "hf_none"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    model.push_to_hub("user/parts")
    processor.push_to_hub("user/parts")
    MultimodalSentimentPipeline(model=model, processor=processor).push_to_hub("user/whole")


class TestPush:
    @pytest.mark.slow
    def test_model_processor_and_pipeline(self, folders, inputs, bare_python, tmp_path):
        """A model pushed from a folder that also holds a run's state, and used from the Hub without the package."""
        (folders / "deberta" / "checkpoint-7").mkdir()
        for name in ("checkpoint-7/optimizer.pt", "training_args.bin", "predictions_test.parquet"):
            (folders / "deberta" / name).write_bytes(b"state")
        try:
            with running_hub() as hub:
                process = ForkedProcess(push, folders / "deberta", hub.endpoint)
                process.start()
                errors = process.finish()[1]
                assert process.exitcode == 0, errors[-3000:]
                assert set(hub.repositories["user/parts"]) == SAVED | {"README.md"}
                assert set(hub.repositories["user/whole"]) == SAVED | {"README.md"}
                for repository in hub.repositories.values():
                    assert b"library_name: transformers" in repository["README.md"]
                arguments = [json.dumps(["user/parts"]), json.dumps(inputs), json.dumps(["again"]), "user/whole"]
                env = environment(tmp_path, HF_ENDPOINT=hub.endpoint)
                results = json.loads(run([*bare_python, *arguments], env, tmp_path).splitlines()[-1])
        finally:
            for name in ("checkpoint-7/optimizer.pt", "training_args.bin", "predictions_test.parquet"):
                (folders / "deberta" / name).unlink()
            (folders / "deberta" / "checkpoint-7").rmdir()
        expected = predict(folders / "deberta", inputs)
        for logits in results["user/parts"]:
            torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=1e-6)
        for name in ("pipeline", "pipeline of a model"):
            assert results[name] == pytest.approx(expected.clamp(-3, 3).tolist(), rel=0, abs=1e-5)

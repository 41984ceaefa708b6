"""What goes wrong in a training is reported on one line, and never costs what was good before."""

import json
import re
import resource
import shutil
import signal
import socket
from functools import partial
from pathlib import Path

import pytest
from datasets import Dataset
from forked import ForkedProcess
from huggingface_hub import HfApi, RepoUrl
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from cpsl import main
from data_builders import load_aligned_dataset
from data_builders.files import locked
from modeling_cpsl.experiments import recipe, records
from modeling_cpsl.experiments.sample_backbone import make_sample_backbone
from modeling_cpsl.training.checkpoints import last_complete_checkpoint


TINY = [
    *("--latent_size", "16", "--modality_hidden_size", "16", "--fusion_size", "16", "--max_length", "24"),
    *("--use_cpu", "--disable_tqdm", "true", "--per_device_train_batch_size", "2"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of small tables: `good`, two with one bad label, and two with an empty split."""
    folder = tmp_path_factory.mktemp("data")
    sample = load_aligned_dataset("sample")

    def write(name, label=None, num_train=12, num_validation=4):
        (folder / name).mkdir()
        labels = list(sample["train"][:num_train]["label"])
        labels[3:4] = labels[3:4] if label is None else [label]
        train = sample["train"].select(range(num_train)).remove_columns("label").add_column("label", labels)
        train.to_parquet(folder / name / "train.parquet")
        validation = sample["validation"].select(range(num_validation))
        validation.to_parquet(folder / name / "validation.parquet")

    write("good")
    write("label_nan", label=float("nan"))
    write("label_5", label=5.0)
    write("no_train", num_train=0)
    write("no_validation", num_validation=0)
    return folder


def error_of(capsys, arguments):
    """The only line that a training prints to stderr that a user's mistake stops."""
    capsys.readouterr()
    assert main(["train", *arguments]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("cpsl train: error: ")
    return line


@pytest.mark.parametrize(
    ("dataset", "options", "named"),
    [
        ("label_nan", "", ["label_nan", "sample speaker00_003", "its label is missing"]),
        ("label_5", "", ["label_5", "sample speaker00_003", "label 5", "[-3, 3]"]),
        ("no_train", "", ["no_train", "train split is empty"]),
        ("no_validation", "", ["no_validation", "validation split is empty"]),
        ("good", "--per_device_train_batch_size 64 --dataloader_drop_last", ["per_device_train_batch_size=64", "12"]),
        ("good", "--per_device_train_batch_size 0", ["per_device_train_batch_size=0"]),
        ("good", "--per_device_eval_batch_size 0", ["per_device_eval_batch_size=0"]),
        ("good", "--gradient_accumulation_steps 0", ["gradient_accumulation_steps=0"]),
        ("good", "--num_train_epochs 0", ["num_train_epochs=0"]),
        (
            "good",
            "--num_train_epochs 2 --modulation_start_epoch 2",
            ["modulation_start_epoch=2 must be below"],
        ),
        ("good", "--modulation_start_epoch -1", ["modulation_start_epoch=-1"]),
        ("good", "--modulation_start_epoch 3 --modulation_end_epoch 2", ["modulation_end_epoch=2"]),
        ("good", "--no_gm", ["ge=True", "gm=True", "set ge=False too"]),
        ("good", "--alpha -1", ["alpha=-1"]),
        ("good", "--alpha nan", ["alpha=nan"]),
        ("good", "--penalty_factor 1", ["penalty_factor=1"]),
        ("good", "--penalty_factor 0", ["penalty_factor=0"]),
        ("good", "--learning_rate 1e30 --warmup_steps 0", ["step 1", "samples speaker00_", "error of acoustic"]),
        ("good", "--modulated_modalities acoustic smell", ["'smell'", "acoustic, visual"]),
        ("good", "--resume_from_checkpoint nowhere", ["nowhere", "not a complete checkpoint"]),
        ("good", "--report_to wandb", ["wandb", "; pip install 'cpsl[wandb]'"]),
        ("good", "--feature_sequences acoustic", ["'acoustic'", "modality=NAME"]),
        ("good", "--max_length 2", ["max_length=2", "at least 3"]),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(data, tmp_path, capsys, dataset, options, named):
    output_dir = tmp_path / "new" / "run"
    command = ["recipes/sample.yaml", "--dataset", str(data / dataset), "--output_dir", str(output_dir), *TINY]
    line = error_of(capsys, [*command, *options.split()])
    assert [text for text in named if text not in line] == []
    assert list(tmp_path.iterdir()) == []


class HubThatLeaves(HfApi):
    """Makes a repository, and is not there any more when the run is to be uploaded."""

    def create_repo(self, repo_id, **kwargs):
        return RepoUrl(f"{self.endpoint}/somebody/{repo_id}", endpoint=self.endpoint)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("hub", [HfApi, HubThatLeaves])
def test_a_hub_that_cannot_be_reached_costs_no_result(data, tmp_path, monkeypatch, capsys, hub):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for module in ("transformers.trainer", "modeling_cpsl.experiments.run"):
            api = hub(endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}")
            monkeypatch.setattr(f"{module}.hf_api", lambda api=api: api)
        options = ["--dataset", str(data / "good"), "--output_dir", str(tmp_path / "run"), "--push_to_hub", "true"]
        line = error_of(capsys, ["recipes/sample.yaml", *options, *TINY, "--num_train_epochs", "1"])
    assert line.startswith("cpsl train: error: push_to_hub: ") and "refused" in line
    command = f"hf upload somebody/run {tmp_path / 'run'} --exclude '*/*' --exclude '.*' --exclude 'predictions_*' --"
    assert (command in line) == (hub is HubThatLeaves)
    assert (tmp_path / "run" / "all_results.json").exists() == (hub is HubThatLeaves)


def _without_a_layer(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layer.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _with_a_smaller_vocabulary(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][:5].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def _without_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _with_fields(**fields):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return damage


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_with_fields(num_attention_heads="2"), ["not a readable text encoder", "num_attention_heads"]),
        (_with_fields(intermediate_size=2**33), ["config.json claims", "parameters, which the weights do not hold"]),
        (_without_a_layer, ["16 tensors", "deberta.encoder.layer.1."]),
        (_with_a_smaller_vocabulary, ["1 tensor of", "deberta.embeddings.word_embeddings.weight"]),
        (_cut_short, ["not a readable text encoder", "get it again"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["model.safetensors"]),
        (_without_tokenizer, ["tokenizer has 7 entries"]),
    ],
)
def test_a_backbone_that_is_not_whole_does_not_train_from_random_numbers(data, tmp_path, capsys, damage, named):
    backbone = make_sample_backbone(["great", "movie"], tmp_path / "backbone", hidden_size=8)
    damage(backbone)
    options = ["--dataset", str(data / "good"), "--output_dir", str(tmp_path / "run"), *TINY]
    line = error_of(capsys, ["recipes/sample.yaml", "--model_name_or_path", str(backbone), *options])
    assert line.startswith(f"cpsl train: error: model_name_or_path {backbone}: ")
    assert [text for text in named if text not in line] == []


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("backbone", ["bert", "mpnet"])
def test_an_input_longer_than_the_positions_is_refused(data, tmp_path, capsys, backbone):
    folder = make_sample_backbone(["great", "movie"], tmp_path / "backbone", hidden_size=8)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vocabulary = {"vocab_size": len(AutoTokenizer.from_pretrained(folder)), "max_position_embeddings": 20}
    AutoModel.from_config(AutoConfig.for_model(backbone, **sizes, **vocabulary)).save_pretrained(folder)
    options = ["--dataset", str(data / "good"), "--output_dir", str(tmp_path / "run"), *TINY]
    longest = {"bert": 20, "mpnet": 18}[backbone]
    command = ["recipes/sample.yaml", "--model_name_or_path", str(folder), *options, "--max_steps", "2"]
    line = error_of(capsys, [*command, "--max_length", str(longest + 1)])
    assert f"max_length={longest + 1} is above the {longest} positions" in line
    assert main(["train", *command, "--max_length", str(longest)]) == 0


@pytest.mark.usefixtures("without_pictures")
def test_resuming_with_other_options(data, tmp_path, capsys, caplog):
    """A model of another shape is refused, other options are told, the same are not, and a complete run stays so."""
    command = ["recipes/sample.yaml", "--dataset", str(data / "good"), "--output_dir", str(tmp_path), *TINY]
    again = [*command, "--resume_from_checkpoint", "last"]
    assert main(["train", *again, "--num_train_epochs", "1"]) == 0
    assert f"{tmp_path}: no complete checkpoint, the training starts anew\n" in capsys.readouterr().out
    for name in ("config.json", "resolved_config.yaml", "trainer_state.json"):
        path = tmp_path / "checkpoint-6" / name
        whole = path.read_bytes()
        path.write_text("[1, [")
        damaged = str(path.parent)
        line = error_of(capsys, [*command, "--num_train_epochs", "2", "--resume_from_checkpoint", damaged])
        is_recipe = name == "resolved_config.yaml"
        told = f"{path}: not a readable YAML" if is_recipe else f"{damaged}: a training cannot go on from it ("
        assert f"error: {told}" in line
        path.write_bytes(whole)
    line = error_of(capsys, [*again, "--fusion", "sum"])
    assert "checkpoint-6: it was trained with fusion=gated, and this run has sum" in line
    (tmp_path / "checkpoint-6" / "rng_state.pth").rename(tmp_path / "checkpoint-6" / "rng_state_0.pth")
    (tmp_path / "checkpoint-6" / "rng_state_1.pth").touch()
    assert main(["train", *again, "--num_train_epochs", "2"]) == 0
    assert f"resumed from {tmp_path / 'checkpoint-6'}: step 6 of 12, epoch 1\n" in capsys.readouterr().out
    assert (
        "with other options than it was trained with: num_train_epochs 1.0 -> 2.0, processes 2 -> 1\n" in caplog.text
    )
    caplog.clear()
    before = files_in(tmp_path)
    assert main(["train", *again, "--num_train_epochs", "2"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: this run is complete, nothing was changed\n"
    results = tmp_path / "all_results.json"
    results.write_text("{")
    line = error_of(capsys, [*again, "--num_train_epochs", "2"])
    assert f"error: {results}: not a readable file of results (" in line
    assert line.endswith("; remove it and repeat the training with --resume_from_checkpoint last")
    results.unlink()
    assert main(["train", *again, "--num_train_epochs", "2"]) == 0
    assert json.loads(results.read_text())["train_loss"] == json.loads(before["all_results.json"])["train_loss"]
    before = files_in(tmp_path)
    line = error_of(capsys, [*again, "--num_train_epochs", "2", "--alpha", "2"])
    assert "that run is complete, and has other options (alpha 1.0 -> 2.0); start anew in another" in line
    assert f"output_dir {tmp_path} holds a run already" in error_of(capsys, [*command, "--seed", "1"])
    for checkpoint in tmp_path.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    line = error_of(capsys, [*again, "--num_train_epochs", "2", "--alpha", "2"])
    assert line.endswith("holds a run already; remove it or name another one")
    assert files_in(tmp_path) == before and "other options" not in caplog.text


def way_out(capsys, command, *options):
    """The option and its value that an error names at its end as the way out."""
    line = error_of(capsys, [*command, *options])
    found = re.search(r"(--\w+ [\w/.,-]+)(?: in another output_dir| there)?$", line)
    assert found, line
    return found[1].split()


@pytest.mark.usefixtures("without_pictures")
def test_each_way_out_that_an_error_names_works(data, tmp_path, capsys):
    """Data without a split that is needed, or without a modality; and a checkpoint of a model alone."""

    def command(name, dataset):
        options = ["--max_steps", "2", "--dataset", str(dataset), "--output_dir", str(tmp_path / name), *TINY]
        return ["sample", *options]

    split = load_aligned_dataset("sample")["test"]
    split = split.select(range(0, len(split), len(split) // 16))  # of many videos
    (tmp_path / "test").mkdir()
    split.to_parquet(tmp_path / "test" / "test.parquet")
    shutil.copytree(tmp_path / "test", tmp_path / "train")
    rows = [row | {"visual": None} for row in split.to_list()]
    Dataset.from_list(rows, split.features).to_parquet(tmp_path / "train" / "train.parquet")
    cases = {
        "there is no train split, it has test": (tmp_path / "test", []),
        "no training sample has visual features": (tmp_path / "train", []),
        "has no validation split to judge by": (tmp_path / "train", ["--early_stopping_patience", "1"]),
    }
    for number, (message, (dataset, options)) in enumerate(cases.items()):
        train = command(f"run{number}", dataset)
        if "judge" in message:
            train += ["--modalities", "text,acoustic"]
        assert message in error_of(capsys, [*train, *options])
        assert main(["train", *train, *options, *way_out(capsys, train, *options)]) == 0
    train = [*command("model", data / "good"), "--save_only_model"]
    assert main(["train", *train]) == 0
    again = [*train, "--num_train_epochs", "2", "--max_steps", "9"]
    resumed = ["--resume_from_checkpoint", str(tmp_path / "model" / "checkpoint-2")]
    option, checkpoint = way_out(capsys, again, *resumed)
    assert main(["train", *command("on", data / "good"), option, checkpoint]) == 0


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.filterwarnings("default:the labels are constant")
def test_what_is_odd_in_the_data_is_said_on_one_line_at_every_training(data, tmp_path, capsys, caplog):
    """A video in two splits, and labels that are all the same, for which Python would show its line of code too."""
    (tmp_path / "data").mkdir()
    train = Dataset.from_parquet(str(data / "good" / "train.parquet"), cache_dir=tmp_path / "cache")
    train.to_parquet(tmp_path / "data" / "train.parquet")
    validation = train.select(range(4)).map(lambda row: row | {"id": f"{row['id']}b", "label": 1.0})
    validation.to_parquet(tmp_path / "data" / "validation.parquet")
    videos = len({*train["video_id"]} & {*validation["video_id"]})
    for attempt, stream in (("a", []), ("b", []), ("c", ["--streaming"])):
        options = ["--dataset", str(tmp_path / "data"), "--output_dir", str(tmp_path / attempt), *stream, *TINY]
        caplog.clear()
        assert main(["train", "sample", *options, "--max_steps", "2"]) == 0
        [message] = [message for message in caplog.messages if "train and validation" in message]
        assert f"share {videos} video{'s' * (videos > 1)}, so speakers leak between them" in message
        assert caplog.messages.count("the labels are constant (1.0): the correlation is set to 0") == 1
        assert "warnings.warn" not in capsys.readouterr().err


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_failed_does_not_block_its_repetition_with_corrected_data(data, tmp_path, capsys):
    command = ["sample", "--output_dir", str(tmp_path), *TINY, "--max_steps", "2"]
    make_sample_backbone(["other", "words"], tmp_path / "sample_backbone", hidden_size=8)  # as one that was killed
    assert "smell" in error_of(capsys, [*command, "--modulated_modalities", "smell"])
    assert main(["train", *command, "--dataset", str(data / "good")]) == 0


def test_two_runs_do_not_write_into_one_folder(data, tmp_path, capsys):
    command = ["sample", "--dataset", str(data / "good"), "--output_dir", str(tmp_path / "run"), *TINY]
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        assert "run: this process is writing there" in error_of(capsys, command)
    assert list(tmp_path.rglob("*")) == [tmp_path / "run"]


def test_a_window_outside_the_epochs_does_not_matter_without_modulation(tmp_path):
    options = ("--num_train_epochs", "2", "--modulation_start_epoch", "2", "--modulation_end_epoch", "2")
    off = ("--no_gm", "--no_ge", "--no_cp")
    recipe.parse_arguments(["recipes/sample.yaml", "--output_dir", str(tmp_path), *options, *off])


def training(prepare, *arguments):
    """A training in a process of its own, which calls `prepare` first."""

    def train():
        prepare()
        return main(["train", "sample", *map(str, arguments), *TINY])

    return ForkedProcess(train)


def start(prepare, *arguments):
    process = training(prepare, *arguments)
    process.start()
    return process


def errors_of(process):
    return process.finish()[1]


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def nothing():
    pass


def fill_disk(event, limit):
    """Stands in for a full disk: no file can grow beyond `limit` bytes after an event of the training."""

    def fill(*_, **__):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    setattr(records.TrainingLog, f"on_{event}", fill)


def save_options(data, output_dir, num_epochs, seed=0):
    return (
        *("--dataset", data / "good", "--output_dir", output_dir, "--num_train_epochs", num_epochs, "--seed", seed),
        *("--save_total_limit", 5),
    )


@pytest.mark.slow
@pytest.mark.parametrize("limit", [4096, "model"])
def test_a_disk_that_fills_up_leaves_the_earlier_checkpoint(data, tmp_path, limit):
    if limit == "model":  # the weights fit, the optimizer's two moments of them do not
        assert main(["train", *map(str, ("sample", *save_options(data, tmp_path / "a", 1))), *TINY]) == 0
        limit = (tmp_path / "a" / "model.safetensors").stat().st_size + 4096
    output_dir = tmp_path / "run"
    process = start(partial(fill_disk, "save", limit), *save_options(data, output_dir, 2))
    errors = errors_of(process)
    assert process.exitcode == 1
    assert "Traceback" not in errors
    assert "could not be written" in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("cpsl train: error: ")
    assert last_complete_checkpoint(output_dir) == str(output_dir / "checkpoint-6")
    AutoModelForSequenceClassification.from_pretrained(output_dir / "checkpoint-6")
    assert not list(tmp_path.rglob(".*"))
    resumed = start(nothing, *save_options(data, output_dir, 2), "--resume_from_checkpoint", "last")
    errors = errors_of(resumed)
    assert resumed.exitcode == 0, errors[-3000:]
    assert last_complete_checkpoint(output_dir) == str(output_dir / "checkpoint-12")


@pytest.mark.slow
def test_a_run_that_cannot_save_leaves_the_earlier_run_model(data, tmp_path):
    options = ("--load_best_model_at_end", "false", "--learning_rate", "1e-2")
    command = ["train", *map(str, ("sample", *save_options(data, tmp_path, 1), *options)), *TINY]
    assert main(command) == 0
    before = files_in(tmp_path)
    options = (*options, "--save_strategy", "no", "--resume_from_checkpoint", "last")
    process = start(partial(fill_disk, "train_end", 4096), *save_options(data, tmp_path, 2), *options)
    errors = errors_of(process)
    assert process.exitcode == 1
    assert "Traceback" not in errors
    assert f"{tmp_path}: could not be written" in errors.splitlines()[-1]
    after = files_in(tmp_path)
    for name in before.keys() - {"training_log.jsonl"}:
        assert after[name] == before[name], name
    load_file(tmp_path / "model.safetensors")
    assert after.keys() == before.keys()


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_leaves_whole_checkpoints(data, tmp_path):
    process = training(nothing, *save_options(data, tmp_path, 2000))
    process.signal_when((tmp_path / "checkpoint-18").is_dir, signal.SIGINT)
    process.start()
    errors = errors_of(process)
    assert process.exitcode == 130, errors[-3000:]
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "cpsl train: interrupted; continue with --resume_from_checkpoint last"
    checkpoint = last_complete_checkpoint(tmp_path)
    assert json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"] >= 12
    AutoModelForSequenceClassification.from_pretrained(checkpoint)

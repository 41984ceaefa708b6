"""What a training prints, line by line."""

import warnings

import datasets
import pytest
import transformers
from training_cases import make_trainer

from modeling_cpsl.experiments.console import Console, kept_model, model_summary, quiet_libraries
from modeling_cpsl.experiments.recipe import SWITCHES
from modeling_cpsl.training.embedding_rows import used_rows


OPTIONS = dict.fromkeys(SWITCHES, True) | {"modulated_modalities": None, "architecture": "cpsl", "balance": "cpsl"}
OPTIONS["model_name_or_path"] = "sample"
EVALUATED = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": None,
    "load_best_model_at_end": True,
}


def train(folder, capsys, **arguments):
    """A finished training, and what it has printed to stdout and stderr."""
    trainer = make_trainer(folder, **{"num_train_epochs": 3, "metric_for_best_model": "mae", **arguments})
    capsys.readouterr()
    with quiet_libraries(), Console(trainer, OPTIONS) as console:
        metrics = trainer.train().metrics
        metrics |= trainer.predict(trainer.eval_dataset, metric_key_prefix="validation").metrics
        console.report(metrics, ["validation"])
    return trainer, *capsys.readouterr()


def test_one_line_an_epoch_and_where_things_are(tmp_path, capsys):
    trainer, output, errors = train(tmp_path, capsys, **EVALUATED)
    assert errors == ""
    model, modalities, method, splits, header, *epochs = output.splitlines()[:8]
    results, kept, place = output.splitlines()[8:-2], *output.splitlines()[-2:]
    total = sum(parameter.numel() for parameter in trainer.model.parameters())
    rows = used_rows(trainer.train_dataset, trainer.model.get_input_embeddings())
    table = trainer.model.get_input_embeddings().weight
    trained = total - table.numel() + len(rows) * table.shape[1]
    assert model == (
        f"model: CPSLForSentimentRegression, {total:,} parameters, {trained:,} of them trained "
        f"(of {len(table):,} embeddings the {len(rows):,} that occur)"
    )
    assert modalities == "modalities: text (sample), acoustic (74 values a word), visual (47 values a word)"
    assert method == "method: AME GM GE CP SL on"
    assert splits.replace("-", " ").split() == ["training", "validation"]
    names = "epoch loss task unimodal reconstruction diversity statistical loss mae corr acc7 acc2_nonzero"
    assert sorted(header.split()) == sorted(names.split())
    log = trainer.state.log_history
    train_rows = [row for row in log if "train_task_loss" in row]
    eval_rows = [row for row in log if "eval_mae" in row]
    best = float("inf")
    for number, (line, train_row, eval_row) in enumerate(zip(epochs, train_rows, eval_rows, strict=True), start=1):
        cells = line.split()
        assert cells[0] == f"{number}/3"
        assert cells[1] == f"{train_row['train_loss']:.3f}"
        assert cells[header.split().index("mae")] == f"{eval_row['eval_mae']:.3f}"
        assert (cells[-1] == "best") == (eval_row["eval_mae"] < best)
        best = min(best, eval_row["eval_mae"])
        assert len(line) <= 119
    assert results[0].split() == ["validation"] and results[1].split() == ["mae", f"{best:.4f}"]
    epoch = min(eval_rows, key=lambda row: row["eval_mae"])["epoch"]
    assert kept == f"kept: the model of epoch {epoch:g}, the best by validation mae ({best:.4f})"
    assert place == f"model, results, predictions, plots and model card are in {trainer.args.output_dir}"


def test_without_evaluation_the_losses_are_still_shown(tmp_path, capsys):
    _, output, _ = train(tmp_path, capsys, metric_for_best_model=None)
    _, _, _, splits, header, *epochs = output.splitlines()[:8]
    assert splits.replace("-", " ").split() == ["training"] and "mae" not in header
    assert [line.split()[0] for line in epochs] == ["1/3", "2/3", "3/3"]


def test_evaluations_within_an_epoch_have_lines_of_their_own(tmp_path, capsys):
    _, output, _ = train(tmp_path, capsys, eval_strategy="steps", eval_steps=2, num_train_epochs=1)
    lines = output.splitlines()
    assert [line.split()[0] for line in lines if "/1 " in line] == ["0.5/1", "1/1"]
    assert len([line for line in lines if line.split()[:1] == ["epoch"]]) <= 2


def test_a_terminal_gets_one_progress_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, _, errors = train(tmp_path, capsys, disable_tqdm=False, num_train_epochs=1, **EVALUATED)
    bars = [text for text in errors.split("\r") if text.strip()]
    assert bars and all(text.strip().startswith("training: ") for text in bars)


def test_what_is_off_and_what_is_not_trained_is_said(tmp_path):
    model = make_trainer(tmp_path).model
    for parameter in model.base_model.parameters():
        parameter.requires_grad_(False)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    size, _, method = model_summary(model, OPTIONS | {"ge": False, "sl": False}).splitlines()
    assert size.endswith(f", {trained:,} of them trained")
    assert method == "method: AME GM CP on, GE SL off"


def test_a_training_that_stops_early_says_so(tmp_path, capsys):
    options = {"learning_rate": 0.0, "early_stopping_patience": 1, **EVALUATED}
    _, output, _ = train(tmp_path, capsys, **options)
    assert "stopped at epoch 2: 1 evaluation without a better model\n" in output


def test_the_last_model_is_kept_where_none_is_chosen(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    trainer.train()
    assert kept_model(trainer.args, trainer.state) == "the model of the last epoch (1)"


def test_the_libraries_speak_again_afterwards():
    datasets.enable_progress_bars()
    with quiet_libraries(is_main_process=False):
        assert not transformers.utils.logging.is_progress_bar_enabled()
        assert datasets.are_progress_bars_disabled()
    assert transformers.utils.logging.is_progress_bar_enabled()
    assert not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize("is_main_process", [True, False])
def test_a_repeated_warning_is_logged_once_and_by_the_main_process_alone(is_main_process, caplog):
    """Without the line of code that Python shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with quiet_libraries(is_main_process):
            for value in (0.1, 0.2):
                warnings.warn(f"the predictions are constant ({value})", stacklevel=1)
    assert caplog.messages == ["the predictions are constant (0.1)"] * is_main_process

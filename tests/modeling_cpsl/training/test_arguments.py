"""The training arguments: defaults that follow from others, the mapping to ModulationConfig, and what is refused."""

import math
import re

import pytest
import torch
from forked import ForkedProcess

from modeling_cpsl import CPSLTrainingArguments
from modeling_cpsl.modulation import RULES, ModulationConfig


@pytest.mark.parametrize(("epochs", "end"), [(30, 25), (6, 5), (20, 16), (1, 0), (60, 50)])
def test_default_window_is_25_of_30_epochs(tmp_path, epochs, end):
    assert CPSLTrainingArguments(output_dir=str(tmp_path), num_train_epochs=epochs).last_modulated_epoch == end


def test_window_beyond_the_epochs_is_refused(tmp_path):
    message = r"modulation_start_epoch=3 must be below num_train_epochs=3; set --balance none"
    with pytest.raises(ValueError, match=message):
        CPSLTrainingArguments(output_dir=str(tmp_path), num_train_epochs=3, modulation_start_epoch=3)
    with pytest.raises(ValueError, match=message):
        CPSLTrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=3,
            modulation_start_epoch=3,
            modulation_end_epoch=3,
            balance="ogm",
        )
    off = {"modulation_start_epoch": 3, "modulation_end_epoch": 3, "balance": "none"}
    CPSLTrainingArguments(output_dir=str(tmp_path), num_train_epochs=3, **off)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": "ogm2"}, "balance='ogm2' must be one of none, cpsl, ogm"),
        (
            {"balance": "ogm", "alpha": 0.3},
            "alpha=0.3 is an option of balance=cpsl and has no effect",
        ),
        ({"balance": "ogm", "cp": False}, "cp=False is an option of balance=cpsl"),
        ({"balance": "ogm", "balance_options": ["alpha"]}, "'alpha' must be a name and a value, as in alpha=0.3"),
        (
            {"balance": "ogm", "balance_options": ["beta=1"]},
            "'beta' is not an option of balance=ogm; its options are",
        ),
        ({"balance": "ogm", "balance_options": ["alpha=much"]}, "balance_options: alpha='much' must be a number"),
        ({"balance": "ogm", "balance_options": ["alpha=-1"]}, "balance_options: alpha=-1.0 must be between 0"),
        (
            {"balance": "ogm", "balance_options": ["score=best"]},
            "score='best' must be one of likelihood",
        ),
        ({"balance": "none", "balance_options": ["alpha=1"]}, "'alpha' is not an option of balance=none; it has none"),
        ({"balance_options": ["alpha=1"]}, "the options of balance=cpsl are gm, cp, alpha, penalty_factor"),
        ({"balance": "alternate"}, "balance=alternate needs modulation_target=update"),
    ],
)
def test_balance_is_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CPSLTrainingArguments(output_dir=str(tmp_path), **options)


@pytest.mark.parametrize("given", [["alpha=.3", "score=inverse_error"], {"alpha": 0.3, "score": "inverse_error"}])
def test_options_of_a_rule_as_texts_or_a_mapping(tmp_path, given):
    args = CPSLTrainingArguments(output_dir=str(tmp_path), balance="ogm", balance_options=given)
    assert args.balance_rule == RULES["ogm"](alpha=0.3, score="inverse_error")
    assert args.to_dict()["balance_options"] == {"alpha": 0.3, "score": "inverse_error"}


def test_a_number_is_spelt_in_any_way(tmp_path):
    args = CPSLTrainingArguments(
        output_dir=str(tmp_path), balance="cggm", balance_options=["floor=1e-3", "momentum=0"]
    )
    assert args.balance_rule == RULES["cggm"](floor=1e-3, momentum=0.0)


def test_enhancement_without_modulation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="GM"):
        CPSLTrainingArguments(output_dir=str(tmp_path), gm=False)


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("mae", False), ("mae_nonzero", False), ("eval_task_loss", False), ("corr", True), ("acc7", True)],
)
def test_which_way_a_metric_is_better_follows_from_its_name(tmp_path, metric, greater):
    def arguments(**more):
        return CPSLTrainingArguments(output_dir=str(tmp_path), metric_for_best_model=metric, **more)

    assert arguments().greater_is_better is greater
    assert arguments(greater_is_better=not greater).greater_is_better is not greater


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fp16": True, "use_cpu": True}, "fp16 has no effect on a CPU, which would train in fp32; leave it out$"),
        ({"deepspeed": "x"}, "deepspeed=x is not supported"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics=True"),
        ({"hub_strategy": "every_save"}, "hub_strategy=every_save"),
        (
            {"eval_strategy": "no"},
            "eval_strategy and save_strategy, and these are no and epoch; set both to",
        ),
        ({"remove_unused_columns": True}, "remove_unused_columns=True"),
        ({"prediction_loss_only": True}, "prediction_loss_only=True"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1"),
        ({"train_sampling_strategy": "batch_rebalance"}, "batch_rebalance.*group_by_length"),
        ({"early_stopping_patience": 0}, "early_stopping_patience=0 must be at least 1"),
        (
            {"early_stopping_patience": 2, "eval_strategy": "no", "load_best_model_at_end": False},
            "early_stopping_patience=2 needs evaluations and .*; set eval_strategy to epoch and metric_for_best_model",
        ),
        ({"max_steps": 0}, "max_steps=0 must be above 0; leave it out"),
        ({"max_steps": -5}, "max_steps=-5 must be above 0"),
        ({"num_train_epochs": math.inf}, "num_train_epochs=inf"),
        ({"num_train_epochs": math.nan}, "num_train_epochs=nan"),
    ],
)
def test_arguments_that_cpsl_cannot_heed_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        CPSLTrainingArguments(output_dir=str(tmp_path), **arguments)
    assert "\n" not in str(error.value)


def test_modalities_to_modulate_are_named_with_commas_or_blanks(tmp_path):
    for names in (["text,acoustic"], ["text", "acoustic"]):
        arguments = CPSLTrainingArguments(output_dir=str(tmp_path), modulated_modalities=names)
        assert arguments.modulated_modalities == ["text", "acoustic"]


def launched_for_gpus(folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    with pytest.raises(ValueError, match=r"for GPUs, and this machine has none; launch.*two_cpu_processes"):
        CPSLTrainingArguments(output_dir=str(folder))
    return 0


def test_processes_for_gpus_that_there_are_not_are_refused(tmp_path):
    process = ForkedProcess(launched_for_gpus, tmp_path)
    process.start()
    errors = process.finish()[1]
    assert process.exitcode == 0, errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modality_masking": "all"}, "modality_masking='all' must be one of none, uniform, opm"),
        (
            {"modality_masking": "uniform", "modality_masking_options": ["probability=1"]},
            r"modality_masking_options: probability=1.0 must be in \[0, 1\)",
        ),
        (
            {"modality_masking": "opm", "modality_masking_options": ["start_epoch=soon"]},
            "start_epoch='soon' must be a whole number",
        ),
        ({"modality_masking_options": {"probability": 0.2}}, "is not an option of modality_masking=none; it has none"),
        (
            {"modality_masking": "opm", "num_train_epochs": 3},
            "modality_masking=opm begins in epoch 5, counted from 0, and this run has 3; give .* start_epoch=N",
        ),
    ],
)
def test_a_masking_that_cannot_be_had_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        CPSLTrainingArguments(output_dir=str(tmp_path), **arguments)
    assert "\n" not in str(error.value)


def test_the_modulation_options_are_those_of_the_config(tmp_path):
    assert CPSLTrainingArguments(output_dir=str(tmp_path)).modulation == ModulationConfig()
    given = {"gm": True, "ge": False, "cp": False, "alpha": 0.3, "penalty_factor": 0.7, "modulation_target": "update"}
    window = {"modulation_start_epoch": 2, "modulation_end_epoch": 4}
    assert CPSLTrainingArguments(output_dir=str(tmp_path), **given, **window).modulation == ModulationConfig(
        modulate=True,
        enhance=False,
        penalize=False,
        alpha=0.3,
        penalty_factor=0.7,
        target="update",
        start_epoch=2,
        end_epoch=4,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gm": False}, "ge=True needs gm=True.*set ge=False too"),
        ({"alpha": -1.0}, "alpha=-1.0 must be finite"),
        ({"penalty_factor": 1.0}, "penalty_factor=1.0 must lie between 0 and 1"),
        (
            {"modulation_start_epoch": 3, "modulation_end_epoch": 2},
            "modulation_start_epoch=3, modulation_end_epoch=2 is not a window",
        ),
        ({"modulation_target": "weights"}, "modulation_target='weights' must be one of gradient, update"),
    ],
)
def test_a_modulation_option_out_of_range_is_refused_by_its_name(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        CPSLTrainingArguments(output_dir=str(tmp_path), **arguments)
    assert "\n" not in str(error.value)

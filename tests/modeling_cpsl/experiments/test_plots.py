"""The pictures of a run: what is drawn where, with which names, marks, ranges and colours."""

import io
import itertools
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from modeling_cpsl.class_task_cpsl import ClassTask, LabelSetTask
from modeling_cpsl.experiments.plots import (
    METRIC_PANELS,
    plot_confusion,
    plot_modulation,
    plot_training_dynamics,
    signed,
)
from modeling_cpsl.losses_cpsl import LOSSES, Loss
from modeling_cpsl.number_task_cpsl import UNBOUNDED, NumberTask
from modeling_cpsl.tasks_cpsl import SENTIMENT
from modeling_cpsl.training.task_metrics import metrics_of


STEPS_AN_EPOCH = 10
QUANTITIES = ("coefficient", "damped", "conflict", "error", "grad_norm")
# https://jfly.uni-koeln.de/color/: told apart with any kind of colour vision.
OKABE_ITO = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}


def history(epochs, modalities=("acoustic", "visual"), losses=("task", "statistical"), validation=True):
    """A log as a training leaves it, its final summary included."""
    rows = []
    for epoch in range(1, epochs + 1):
        train = {"train_loss": 3.0 / epoch} | {f"train_{name}_loss": 1.0 / epoch for name in losses}
        for index, (quantity, name) in enumerate(itertools.product(QUANTITIES, modalities)):
            train[f"train_{quantity}_{name}"] = (index + 1) / (10 + epoch)
        if modalities:
            train |= {
                "train_imbalance": 0.2,
                "train_feature_entropy": 0.1 * epoch,
                "train_diversity_loss": -0.1 * epoch,
            }
        place = {"epoch": float(epoch), "step": epoch * STEPS_AN_EPOCH}
        rows.append(train | place)
        if validation:
            scores = {"eval_mae": 1.5 / epoch, "eval_corr": 1 - 0.5 / epoch, "eval_acc7": 0.1}
            rows.append({"eval_loss": 3.5 / epoch, "eval_task_loss": 1.2 / epoch} | scores | place)
    return [*rows, {"train_runtime": 1.0, "train_loss": 2.0} | place]


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved, laid out with all that is in them."""
    saved, print_png = [], FigureCanvasAgg.print_png

    def keep(canvas, path, **options):
        if isinstance(path, io.BytesIO):  # by which Matplotlib finds out what draws a figure
            print_png(canvas, path, **options)
        saved.append(canvas.figure)
        canvas.figure.draw(canvas.get_renderer())
        path.touch()

    monkeypatch.setattr(FigureCanvasAgg, "print_png", keep)
    return saved


@pytest.fixture
def draw(figures, tmp_path):
    """Draws a picture and gives its axes by title."""

    def draw(plot, log, **options):
        plot(log, tmp_path / "picture.png", **options)
        return {axis.get_title(): axis for axis in figures[-1].axes}

    return draw


def curves(axis):
    """The curves of a panel by label, without the marks, which span its height."""
    return {line.get_label(): line for line in axis.lines if len(line.get_xdata()) != 2 or line.get_marker() != "None"}


def marks(axis):
    return {line.get_label(): line for line in axis.lines if line not in curves(axis).values()}


def test_the_metrics_that_are_drawn_are_known():
    tasks = [task(("first", "second")) for task in (ClassTask, LabelSetTask)]
    tasks += [SENTIMENT, NumberTask(("first", "second"), ranges=(UNBOUNDED, UNBOUNDED))]
    assert METRIC_PANELS.keys() <= {name for task in tasks for name in metrics_of(task)}


def test_the_confusion_of_classes_is_drawn(tmp_path):
    plot_confusion(np.array([[3, 1], [0, 0]]), ["happy", "pays $5 or $6"], tmp_path / "confusion.png", split="test")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("task", "units"),
    [
        (SENTIMENT, ("MAE (sentiment points)", "regression loss", "sentiment points")),
        (NumberTask(("calm",), ranges=((0.0, 1.0),)), ("MAE (calm points)", "regression loss", "calm points")),
        (NumberTask(("a", "b"), ranges=(UNBOUNDED,) * 2), ("MAE (mean over 2 numbers)", "regression loss", None)),
        (ClassTask(("happy", "sad")), ("1 - p of the label", "cross-entropy", None)),
    ],
)
def test_units_are_those_of_the_labels(draw, task, units):
    unimodal = draw(plot_modulation, history(2), task=task)["Unimodal error"]
    panels = draw(plot_training_dynamics, history(2), task=task)
    drawn = [unimodal, panels["Task loss"], panels["Validation MAE"]]
    for axis, unit in zip(drawn, units, strict=True):
        assert unit in (axis.get_ylabel(), None)


@pytest.mark.parametrize("epochs", [1, 30])
def test_plots_have_ink(tmp_path, epochs):
    plot_training_dynamics(history(epochs), tmp_path / "dynamics.png", best_step=STEPS_AN_EPOCH)
    plot_modulation(history(epochs), tmp_path / "modulation.png", modulated_epochs=range(25))
    for name in ("dynamics.png", "modulation.png"):
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_curves_are_drawn_where_they_belong(draw):
    """The values are the log's, training and validation apart, the final summary row left out."""
    panels = draw(plot_training_dynamics, history(3))
    drawn = {
        (title, label): (list(line.get_xdata()), list(line.get_ydata()))
        for title, axis in panels.items()
        for label, line in curves(axis).items()
    }
    epochs = [1, 2, 3]
    assert drawn == {
        ("Total loss", "training"): (epochs, [3.0, 1.5, 1.0]),
        ("Total loss", "validation"): (epochs, [3.5, 1.75, pytest.approx(3.5 / 3)]),
        ("Task loss", "training"): (epochs, [1.0, 0.5, pytest.approx(1 / 3)]),
        ("Task loss", "validation"): (epochs, [1.2, 0.6, pytest.approx(0.4)]),
        ("Statistical loss", "training"): (epochs, [1.0, 0.5, pytest.approx(1 / 3)]),
        ("Feature entropy", "training"): (epochs, [0.1, 0.2, pytest.approx(0.3)]),
        ("Validation MAE", "validation"): (epochs, [1.5, 0.75, 0.5]),
        ("Validation correlation", "validation"): (epochs, [0.5, 0.75, pytest.approx(1 - 0.5 / 3)]),
    }


def test_modulation_is_drawn_by_modality(draw):
    log = history(2, modalities=("acoustic", "visual", "timing"))
    panels = draw(plot_modulation, log)
    assert len(panels) == len(QUANTITIES) + 1
    for quantity, title in zip(QUANTITIES, panels, strict=False):
        assert {label: list(line.get_ydata()) for label, line in curves(panels[title]).items()} == {
            name: [row[f"train_{quantity}_{name}"] for row in log if "train_imbalance" in row]
            for name in ("acoustic", "timing", "visual")
        }
    (line,) = curves(panels["Modality imbalance degree"]).values()
    assert list(line.get_ydata()) == [0.2, 0.2]


def test_who_learns_when_is_drawn_of_text_too(draw):
    log = history(2)
    for row in log:
        if "eval_mae" in row:
            row |= {"eval_skill_text": row["epoch"] / 4, "eval_skill_visual": 0.0}
    lines = curves(draw(plot_modulation, log)["Who learns when"])
    assert {name: list(line.get_ydata()) for name, line in lines.items()} == {"text": [0.25, 0.5], "visual": [0, 0]}


def test_a_loss_of_the_list_has_a_panel(draw, monkeypatch):
    monkeypatch.setitem(LOSSES, "contrastive", Loss(lambda inputs: None, "contrastive loss", "nats", 0.1))
    panels = draw(plot_training_dynamics, history(2, losses=("task", "contrastive")))
    assert panels["Contrastive loss"].get_ylabel() == "nats"
    assert list(curves(panels["Contrastive loss"])) == ["training"]


@pytest.mark.parametrize(
    "log",
    [
        history(3),
        history(3, losses=("task", "unimodal", "reconstruction", "statistical")),
        history(3, modalities=(), losses=("task", "unimodal")),
        history(3, validation=False),
    ],
    ids=["7 panels", "8 panels", "text alone", "no validation"],
)
def test_every_panel_has_curves_units_and_its_part_of_the_picture(draw, figures, log):
    for plot in (
        (plot_training_dynamics, plot_modulation) if "train_imbalance" in log[0] else (plot_training_dynamics,)
    ):
        panels = draw(plot, log)
        assert all(curves(axis) and axis.get_ylabel() and axis.get_xlabel() == "epoch" for axis in panels.values())
        assert all(axis.get_visible() for axis in figures[-1].axes)
        rows = {}
        for axis in panels.values():
            rows.setdefault(axis.get_subplotspec().rowspan.start, []).append(axis.get_position())
        assert {len(row) for row in rows.values()} <= {max(map(len, rows.values())), max(map(len, rows.values())) - 1}
        # Full rows: all begin and end where the others do.
        assert np.ptp([row[-1].x1 for row in rows.values()]) < 0.02
        assert np.ptp([row[0].x0 for row in rows.values()]) < 0.05


def test_the_best_epoch_is_marked_and_named(draw, figures):
    panels = draw(plot_training_dynamics, history(20), best_step=16 * STEPS_AN_EPOCH)
    for axis in panels.values():
        (mark,) = marks(axis).values()
        assert (set(mark.get_xdata()), mark.get_linestyle(), mark.get_label()) == ({16}, "--", "best epoch (16)")
    assert [text.get_text() for text in figures[-1].legends[0].get_texts()][-1] == "best epoch (16)"
    assert not any(marks(axis) for axis in draw(plot_training_dynamics, history(20)).values())


def test_the_modulation_window_and_its_end_are_marked_and_named(draw, figures):
    """Of 20 epochs 17 are modulated: the values of epoch 17 are the last ones in the window."""
    panels = draw(plot_modulation, history(20), modulated_epochs=range(2, 17))
    for axis in panels.values():
        (mark,), (window,) = marks(axis).values(), axis.patches
        assert (set(mark.get_xdata()), mark.get_label()) == ({17}, "end of the window (epoch 17)")
        assert (window.get_x(), window.get_x() + window.get_width()) == (2, 17)
    names = [text.get_text() for text in figures[-1].legends[0].get_texts()]
    assert names == ["acoustic", "visual", "modulation window", "end of the window (epoch 17)"]
    assert not any(marks(axis) for axis in draw(plot_modulation, history(5), modulated_epochs=range(5)).values())


def test_the_legend_covers_no_curve(draw, figures):
    for plot, options in (
        (plot_training_dynamics, {"best_step": 16 * STEPS_AN_EPOCH}),
        (plot_modulation, {"modulated_epochs": range(17)}),
    ):
        panels = draw(plot, history(20, modalities=("acoustic", "text", "timing", "visual")), **options)
        (legend,), box = figures[-1].legends, figures[-1].bbox
        extent = legend.get_window_extent()
        assert box.x0 <= extent.x0 and extent.x1 <= box.x1 and extent.y1 <= box.y1
        assert not any(extent.overlaps(axis.get_window_extent()) for axis in panels.values())
        assert all(axis.get_legend() is None for axis in panels.values())


def test_rounding_errors_are_not_drawn_as_changes(draw):
    log = history(9)
    for row in log:
        for name in ("train_coefficient_acoustic", "train_coefficient_visual"):
            row[name] = 1.0 - 1e-9 * row["epoch"]
        for name in ("train_error_acoustic", "train_error_visual"):
            row[name] = 1.2 + 1e-9 * row["epoch"]
        row["train_conflict_acoustic"] = row["train_conflict_visual"] = 0.0
    panels = draw(plot_modulation, log)
    low, high = panels["Modulation coefficient $c_m$"].get_ylim()
    assert -0.1 < low <= 0 and 1 <= high < 1.1
    low, high = panels["Steps in conflict"].get_ylim()
    assert low <= 0 and high >= 1
    low, high = panels["Unimodal error"].get_ylim()
    assert low < 1.19 and high > 1.21
    for axis in panels.values():
        axis.figure.draw_without_rendering()
        assert axis.yaxis.get_offset_text().get_text() == ""


def test_a_small_change_is_seen(draw):
    """A statistical loss between .116 and .127 fills its panel."""
    log = history(9)
    for row in log:
        row["train_statistical_loss"] = 0.116 + 0.011 * (row["epoch"] % 2)
    low, high = draw(plot_training_dynamics, log)["Statistical loss"].get_ylim()
    assert 0.11 < low < 0.116 and 0.127 < high < 0.13


@pytest.mark.parametrize("scale", [1.0, -0.0125, -6e3, 3e-9])
def test_no_text_of_a_panel_reaches_into_another_or_out_of_the_picture(draw, figures, scale):
    """Whatever the numbers at the axes are."""
    log = [
        {name: value if name in ("epoch", "step") else value * scale for name, value in row.items()}
        for row in history(3, losses=("task", "unimodal", "reconstruction", "statistical"))
    ]
    for plot in (plot_training_dynamics, plot_modulation):
        boxes = [axis.get_tightbbox() for axis in draw(plot, log).values()]
        boxes += [legend.get_window_extent() for legend in figures[-1].legends]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        picture = figures[-1].bbox
        assert all(picture.x0 <= box.x0 and picture.y0 <= box.y0 for box in boxes)
        assert all(box.x1 <= picture.x1 and box.y1 <= picture.y1 for box in boxes)


@pytest.mark.parametrize("last_epoch", [0.05, 1.0, 30.0])
def test_the_epochs_are_labelled(draw, last_epoch):
    log = [row | {"epoch": row["epoch"] * last_epoch} for row in history(1)]
    for axis in draw(plot_training_dynamics, log).values():
        axis.figure.draw_without_rendering()
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert low == 0 and high >= last_epoch and len(ticks) > 1
        assert last_epoch < 1 or all(tick == round(tick) for tick in ticks)


def test_a_modality_has_one_colour_in_every_picture(draw):
    def colours(names):
        panels = draw(plot_modulation, history(2, modalities=names))
        (found,) = {
            tuple((label, to_hex(line.get_color()), line.get_marker()) for label, line in sorted(curves(axis).items()))
            for title, axis in panels.items()
            if title != "Modality imbalance degree"
        }
        return {label: style for label, *style in found}

    every = colours(("acoustic", "text", "timing", "visual"))
    assert {colour for colour, _ in every.values()} <= OKABE_ITO
    assert len({colour for colour, _ in every.values()}) == len({marker for _, marker in every.values()}) == 4
    for names in (("acoustic", "visual"), ("visual", "text"), ("timing",)):
        assert colours(names) == {name: every[name] for name in names}


def test_values_that_are_not_finite_leave_gaps(draw):
    log = history(4)
    log[0]["train_error_acoustic"] = math.nan
    for row in log:
        row["train_grad_norm_acoustic"] = row["train_grad_norm_visual"] = math.nan
    assert all(np.isfinite(axis.get_ylim()).all() for axis in draw(plot_modulation, log).values())


def test_numbers_have_their_sign_and_zero_has_none():
    assert [signed(value) for value in (1.25, -0.5, -0.004, 0)] == ["+1.25", "−0.50", "0.00", "0.00"]
    assert signed(2.96, digits=1) == "+3.0"

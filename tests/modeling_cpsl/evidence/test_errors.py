"""Where models err, from tables of predictions on the sample corpus, against sums by hand."""

import numpy as np
import pandas as pd
import pytest
import yaml

from cpsl import main
from data_builders import load_aligned_dataset
from modeling_cpsl.evidence.errors import _ranges, write_error_analysis
from modeling_cpsl.evidence.group_sums import SUM_NAMES
from modeling_cpsl.evidence.records import write_record


@pytest.fixture(scope="module")
def test_split():
    return load_aligned_dataset("sample")["test"].select_columns(["id", "words", "label"]).to_pandas()


@pytest.fixture
def experiment(test_split, tmp_path):
    """Two seeds of two rows whose errors are known: `text` predicts 0, `both` is wrong by .5, by 4 in one sample."""
    specification = {"base": "sample", "rows": {"text": {}, "both": {}}, "seeds": [0, 1], "reference": "text"}
    (tmp_path / "specification.yaml").write_text(yaml.safe_dump(specification, sort_keys=False))
    label = test_split["label"].to_numpy()
    wrong = np.where(np.arange(len(label)) == 7, 4.0, 0.5)
    for seed in (0, 1):
        tables = {
            "text": {"prediction": np.zeros(len(label))},
            "both": {
                "prediction": label + wrong,
                "prediction_text": label,
                "prediction_acoustic": -np.ones(len(label)),
            },
        }
        for row, columns in tables.items():
            record = {"row": row, "seed": seed, "fold": None, "status": "finished", "sum_names": SUM_NAMES}
            record["group_sums"] = {"test": {}}
            path = tmp_path / "records" / f"{row}-seed{seed}.json"
            write_record(record, path)
            table = pd.DataFrame({"id": test_split["id"], "label": label} | columns)
            table.to_parquet(path.with_suffix(".test.parquet"))
    return tmp_path


def lines_of(text, title):
    """The cells of each line of the table whose first column has this title."""
    table = text.partition(f"| {title} |")[2].partition("\n\n")[0].splitlines()[2:]
    return {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (line.split("|") for line in table)}


def test_errors_are_those_of_the_predictions(experiment, test_split):
    text = write_error_analysis(experiment).read_text()
    by_class = lines_of(text, "label")
    labels = test_split["label"]
    assert list(by_class) == sorted(by_class, key=int) and "0" in by_class
    strong = labels[np.clip(np.round(labels), -3, 3) == 3]
    assert by_class["+3"][:2] == [f"{len(strong) / len(labels):.0%}", f"{strong.mean():.3f}"]

    by_length = lines_of(text, "words")
    lengths = test_split["words"].map(len)
    assert 3 <= len(by_length) <= 4
    for name, (share, error, _) in by_length.items():
        bounds = list(map(int, name.split(" to ")))
        inside = lengths.between(bounds[0], bounds[-1])
        assert (share, error) == (f"{inside.mean():.0%}", f"{labels[inside].abs().mean():.3f}")

    right = lines_of(text, "right alone")
    negative = (labels < 0).mean()
    assert list(right) == ["text", "text+acoustic"]
    assert [cells[0].split(" ")[1] for cells in right.values()] == [f"({1 - negative:.0%})", f"({negative:.0%})"]

    preferred = lines_of(text, "preferred")
    assert {*preferred} <= {"text", "acoustic", "visual"} and 97 <= sum(
        int(c[0][:-1]) for c in preferred.values()
    ) <= 103
    assert text.count("bootstrap draws of groups") == 1 and "fusion loses there what that modality knows" in text

    worst = lines_of(text, "id")
    assert len(worst) == 20
    sample = test_split.iloc[7]
    cells = worst[sample["id"]]
    assert cells[1:4] == [f"{sample['label']:+.1f}", "+0.00", f"{sample['label'] + 4:+.2f}"]
    assert cells[4] == " ".join(sample["words"])
    assert next(iter(worst)) == sample["id"]


def test_ranges_have_every_length_once():
    assert _ranges(np.array([1, 3, 4, 9, 10]), np.array([1, 4, 10])) == ["1 to 3", "1 to 3", *["4 to 10"] * 3]
    assert _ranges(np.array([1, 4, 5]), np.array([1, 4, 5])) == ["1 to 3", "4 to 5", "4 to 5"]
    assert _ranges(np.array([1, 2, 5]), np.array([1, 2, 5])) == ["1", "2 to 5", "2 to 5"]
    assert _ranges(np.array([5, 5]), np.array([5])) == ["5", "5"]


def test_an_analysis_that_cannot_be_made_is_refused_before_the_report(experiment, capsys):
    """As where the records alone have been published: neither predictions nor data are there."""
    path = experiment / "specification.yaml"
    path.write_text(path.read_text().replace("base: sample", "base: nowhere/base.yaml"))
    for table in (experiment / "records").glob("*.parquet"):
        table.unlink()
    assert main(["report", str(experiment), "--errors"]) == 1
    printed, error = capsys.readouterr()
    assert not printed
    assert (
        "needs these tables and the data, which stay on the machine of the runs: ask for it there, or leave" in error
    )


def test_what_is_not_there_is_named(experiment):
    path = experiment / "records" / "both-seed1.test.parquet"
    for damage, message in (
        (lambda: pd.read_parquet(path).assign(id="x").to_parquet(path), "the data has no sample 'x'"),
        (lambda: path.write_bytes(b"PAR1"), "not a readable table of predictions"),
        (path.unlink, "there is no such table of predictions"),
    ):
        damage()
        with pytest.raises(ValueError, match=message):
            write_error_analysis(experiment)

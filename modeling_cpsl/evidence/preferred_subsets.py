"""Errors where one modality alone is the best one: does a fused prediction lose what that modality knows?

After Balanced Audiovisual Dataset (arXiv:2302.10912), by whose account methods of balancing win overall and lose to
the better modality alone on the samples that it is preferred for.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
from datasets import Dataset, concatenate_datasets

from data_builders.columns import modality_sizes, read_columns, row_counts

from ..training.resampling import preferred_modality
from ..training.unimodal_predictions import out_of_fold_errors
from .statistics import CONFIDENCE, interval
from .tables import table_lines


_NUM_DRAWS = 1000


def preferred_by_sample(splits: Iterable[Dataset], group: str) -> pd.DataFrame:
    """The modality that alone predicts each sample best, by models that were trained on other videos.

    Models that were trained on a sample would prefer the text for nearly all of them. These are ridge regressions, see
    [`out_of_fold_errors`]; that of the text is weaker than a trained text encoder.

    Args:
        splits: Labelled samples in the row format.
        group: The column of what a sample is from; where there is none, each is by itself.

    Returns:
        `preferred`, empty where a sample has fewer than two modalities, and `group`, by id.

    Raises:
        ValueError: A modality is known of too few videos to predict others from it.
    """
    data = concatenate_datasets([*splits])
    names = [name for name in ("words", *modality_sizes(data)) if row_counts(data, name).any()]
    modalities = ["text" if name == "words" else name for name in names]
    places, discrepancies = preferred_modality(out_of_fold_errors(data, modalities))
    preferred = np.where(np.isfinite(discrepancies), np.array(modalities, dtype=object)[places], "")
    columns = list(dict.fromkeys(["id", group if group in data.column_names else "id"]))
    table = pd.concat([each.to_pandas() for each in read_columns(data, columns)], ignore_index=True)
    return pd.DataFrame({"preferred": preferred, "group": table[columns[-1]].to_numpy()}, index=table["id"])


def subset_report(samples: pd.DataFrame, predictions: Mapping[str, pd.DataFrame], reference: str) -> list[str]:
    """Tables of the mean absolute errors on each preferred subset, in Markdown, with what introduces them.

    Args:
        samples: See [`preferred_by_sample`].
        predictions: By row of the experiment `id`, `label`, `prediction` and, where the model has predictions from one
            modality alone, `prediction_<modality>`, over all runs of the row.
        reference: The row that the others are compared with.
    """
    tested = samples.loc[sorted({name for table in predictions.values() for name in table["id"]})]
    shares = tested["preferred"][tested["preferred"] != ""].value_counts() / len(tested)
    subsets = list(shares.index)
    if len(subsets) < 2:
        return ["By preferred modality: left out, since all samples prefer the same one."]
    errors = {row: _errors(table) for row, table in predictions.items()}
    lines = [
        [name, f"{shares[name]:.0%}", *(_mean(samples, each["prediction"], name) for each in errors.values())]
        for name in subsets
    ]
    parts = [
        "By the modality that alone predicts a sample best, as told by small models that never saw its video "
        "(regressions on words, and on means and deviations of features):",
        table_lines(["preferred", "share", *errors], lines),
    ]

    def compared(rows: Iterable[str], theirs: Callable[[str, str], pd.Series | None]) -> str:
        """The errors of rows minus others (None: none), by subset."""
        cells = {row: [(name, theirs(row, name)) for name in subsets] for row in rows}
        return table_lines(
            ["row", *subsets],
            [
                [
                    row,
                    *(_difference(samples, errors[row]["prediction"], other, name) for name, other in others),
                ]
                for row, others in cells.items()
            ],
        )

    if rest := [row for row in errors if row != reference and reference in errors]:
        parts += [
            f"Differences from `{reference}` there; below 0 is better. In brackets the {CONFIDENCE:.0%} interval of "
            f"{_NUM_DRAWS} bootstrap draws of groups:",
            compared(rest, lambda row, name: errors[reference]["prediction"]),
        ]
    if with_heads := [row for row, each in errors.items() if {*subsets} & {*each.columns}]:
        parts += [
            "The error of the whole prediction minus that of the model's own prediction from the preferred modality "
            "alone; above 0, fusion loses there what that modality knows:",
            compared(with_heads, lambda row, name: errors[row].get(name)),
        ]
    return parts


def _errors(table: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute error over runs, by id and by what predicts: `prediction`, or a modality alone."""
    predicted = [name for name in table.columns if name.startswith("prediction")]
    errors = table[predicted].sub(table["label"], axis=0).abs()
    return errors.groupby(table["id"].to_numpy()).mean().rename(columns=lambda name: name.removeprefix("prediction_"))


def _mean(samples: pd.DataFrame, errors: pd.Series, subset: str) -> str:
    inside = errors[(samples.loc[errors.index, "preferred"] == subset).to_numpy()]
    return f"{inside.mean():.3f}" if len(inside) else ""


def _difference(samples: pd.DataFrame, errors: pd.Series, others: pd.Series | None, subset: str) -> str:
    """The mean difference of errors (by id) on a subset, and its interval over groups drawn anew."""
    if others is None:
        return ""
    known = (errors - others).dropna()
    known = known[(samples.loc[known.index, "preferred"] == subset).to_numpy()]
    if known.empty:
        return ""
    by_group = known.groupby(samples.loc[known.index, "group"].to_numpy()).agg(["sum", "size"]).to_numpy(float)
    chances = np.full(len(by_group), 1 / len(by_group))
    counts = np.random.default_rng(0).multinomial(len(by_group), chances, size=_NUM_DRAWS)
    sums, sizes = (counts @ by_group).T
    low, high = interval(sums / sizes)
    return f"{known.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


__all__ = ["preferred_by_sample", "subset_report"]

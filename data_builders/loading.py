"""The call that most users need, and the data sets that have a name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from .builder import AlignedSentimentBuilder
from .folds import CMU_MOSI_FOLDS
from .formats import sample
from .formats.recognition import get_reader
from .labels import LabelFormat
from .names import locate


class CMUMosi(AlignedSentimentBuilder):
    """CMU-MOSI (Zadeh et al., 2016) from any known file; warns where its splits are not the standard folds."""

    DATASET_NAME = "cmu_mosi"
    STANDARD_FOLDS = CMU_MOSI_FOLDS


class CMUMosei(AlignedSentimentBuilder):
    """CMU-MOSEI (Zadeh et al., 2018) from any known file."""

    DATASET_NAME = "cmu_mosei"


class SampleCorpus(AlignedSentimentBuilder):
    """The embedded sample corpus, which `data_builders.formats.sample` generates."""

    DATASET_NAME = "sample"


def features_are_normalized(format_name: str) -> bool:
    """Whether the publisher of a dataset's files has already standardised its features.

    Args:
        format_name (`str`): The format, which is the dataset's `info.config_name`.

    Raises:
        DataError: There is no such format.
    """
    return get_reader(format_name).FEATURES_ARE_NORMALIZED


def make_builder(
    name_or_path: str | Path, *, data_dir: str | Path | None = None, **options: Any
) -> AlignedSentimentBuilder:
    """The builder that `load_aligned_dataset` uses, for those who want to know what the build left out.

    Nothing is built yet: call `download_and_prepare(num_proc=...)`, after which `skipped` and `replaced` are known,
    and then `as_dataset()`.

    Args:
        name_or_path: See `load_aligned_dataset`.
        data_dir: See `load_aligned_dataset`.
        options: Its other options, without `num_proc`.

    Raises:
        DataError: The name or an option is wrong, or there is no such file.
    """
    path, format = locate(name_or_path, data_dir)
    named: dict[str | Path, type[AlignedSentimentBuilder]]
    named = {"mosi": CMUMosi, "mosei": CMUMosei, sample.FORMAT: SampleCorpus}
    builder = named.get(name_or_path, AlignedSentimentBuilder)
    return builder(path, **options | ({} if format is None else {"format": format}))


def load_aligned_dataset(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    modalities: Sequence[str] | None = None,
    feature_sequences: Mapping[str, str] | None = None,
    folds: Mapping[str, Sequence[str]] | None = None,
    format: str | None = None,
    labels: bool | Sequence[str] | None = True,
    label_kind: str | None = None,
    label_range: Sequence[float] | None = None,
    label_format: LabelFormat | None = None,
    labels_of_all_splits: bool = False,
    on_error: str = "raise",
    group: str | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """Loads word-aligned multimodal sentiment data, whatever file it is in.

    Args:
        name_or_path (`str` or `Path`): `"sample"` (the embedded generated corpus), `"mosi"` or `"mosei"` (with
            `data_dir`), or the path of a file or folder whose format is recognised from its content.
        data_dir (`str` or `Path`, *optional*): Where the files of `"mosi"` or `"mosei"` are.
        modalities (sequence of `str`, *optional*): The modalities wanted. Default: all that are found. The derived
            `timing` (see `data_builders.timing`) is given only when it is named. Words are always given; without
            `"text"` among the names they may be missing. Features that are not named need not be readable, and columns
            of a table that are not named are not looked at.
        feature_sequences (mapping, *optional*): Modality -> file or root name of a computational sequence.
        folds (mapping, *optional*): Split -> video ids, for computational sequences.
        format (`str`, *optional*): The name of the format. Default: recognised from the content.
        labels (`bool` or sequence of `str`, *optional*): The columns of a table that hold the label, in place of
            `label`; several are several numbers, or with `label_kind="classes"` the classes whose number is above 0.
            Of CMU-MOSEI's files, which of its seven labels (`labels.MOSEI_LABELS`). False for data to predict on. Then
            labels are neither read nor checked, a table need not have them, and rows have no `label`. `None`: rows
            have a `label` where the data has a valid one.
        label_kind (`str`, *optional*): `"number"`, `"class"` (numbers are then the names of classes) or `"classes"`
            (any of several, in a text between semicolons). Default: told by the labels of the training split. They are
            numbers if any is one, several numbers if they are records, and else classes.
        label_range (sequence of `float`, *optional*): The least and the greatest label, if they are not
            those of a sentiment; for several numbers one after the other, or once for all.
        label_format (`LabelFormat`, *optional*): What the labels are, where that need not be found in the training
            split, such as those of a trained model.
        labels_of_all_splits (`bool`): Whether to find in all splits what labels are, and which classes there are, for
            splits that are merged and cut anew.
        group (`str`, *optional*): A column of a table to keep as text, by which samples are grouped in place of their
            `video_id`.
        on_error (`str`): `"raise"`, or `"skip"` to leave out samples that are wrong and log them.
        cache_dir (`str` or `Path`, *optional*): Where Arrow files are cached. Default: the cache of `datasets`.
        num_proc (`int`, *optional*): The number of processes that build the cache.
        streaming (`bool`): Whether to read rows while they are used, without a cache and, from Parquet, in constant
            memory. `datasets.distributed.split_dataset_by_node` and a data loader's workers share out the row groups.

    Returns:
        `datasets.DatasetDict`, or `IterableDatasetDict` if streaming: those of train / validation / test that exist.
        A single table without splits is `train`.
        Columns: `id`, `video_id`, `words` (n strings), one `(n, size)` float32 array for each modality (`(0, size)`
        where a sample lacks it), `label` and, where known, `start`, `end`, `word_start`, `word_end` in seconds.
        `label` says by its feature what it is: `Value("float32")`, by default a sentiment; `ClassLabel`
        with the classes of the training split in alphabetical order; `List(ClassLabel)`; or a dict of
        `Value("float32")` by name. `arrow_rows.label_format_of` gives that with the ranges of numbers.
        `dataset.info.config_name` is the format; of converted data, that of the format that it was converted from.

    Raises:
        DataError: One line that names the file, the sample, the field and the way out.

    Example:

    ```python
    >>> from data_builders import load_aligned_dataset

    >>> splits = load_aligned_dataset("sample")
    >>> splits["train"][0]["words"][:3]
    ```
    """
    builder = make_builder(
        name_or_path,
        data_dir=data_dir,
        modalities=modalities,
        feature_sequences=feature_sequences,
        folds=folds,
        format=format,
        labels=labels,
        label_kind=label_kind,
        label_range=label_range,
        label_format=label_format,
        # Not said where it is not so, for it is a part of the cache's key.
        **({"labels_of_all_splits": True} if labels_of_all_splits else {}),
        **({"group": group} if group not in (None, "video_id") else {}),
        on_error=on_error,
        cache_dir=cache_dir,
        streaming=streaming,
    )
    if streaming:
        return builder.as_streaming_dataset()
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset()

"""The `datasets` builder that turns any known file into the one row format."""

import contextlib
import hashlib
import itertools
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError

from .arrow_rows import label_format_of, row_batches, row_features, rows_to_table
from .files import ON_ERROR, DataError, check_at_least_1, content_hash, counted, one_line, remove_damaged, seal
from .formats.recognition import open_source, source_files
from .interrupts import interrupting_once
from .labels import LabelFormat, class_warnings, classes_text
from .leaks import leak_search
from .rows import (
    Replaced,
    Row,
    Skipped,
    Source,
    UnusedLabel,
    checked_rows,
    columns_left_out,
    reasons_left_out,
    wanted_sizes,
)


logger = logging.getLogger(__name__)

# Part of every cache's key: raise it whenever the output of any reader changes, so that caches are rebuilt.
READER_VERSION = "1.11.0"


class LeftOut(NamedTuple):
    """A sample that a build left out: its id, the reason, and the split that it would have been in."""

    id: str
    reason: str
    split: str


@dataclass
class AlignedSentimentConfig(datasets.BuilderConfig):
    """What is read and how; see `load_aligned_dataset`."""

    version: datasets.Version = datasets.Version(READER_VERSION)
    modalities: Sequence[str] | None = None
    feature_sequences: Mapping[str, str] | None = None
    folds: Mapping[str, Sequence[str]] | None = None
    format: str | None = None
    labels: bool | Sequence[str] | None = True
    label_kind: str | None = None
    label_range: Sequence[float] | None = None
    label_format: LabelFormat | None = None
    labels_of_all_splits: bool = False
    on_error: str = "raise"
    group: str | None = None


class AlignedSentimentBuilder(datasets.ArrowBasedBuilder):
    """Builds a dataset in the row format from a file or folder of any known format.

    The cache is keyed by the content of the files, the version of the readers and the options. So a changed file
    never uses an outdated cache, and a file that was only moved keeps its cache.

    Args:
        data_dir (`str` or `Path`): The file or folder.
        cache_dir (`str`, *optional*): Where Arrow files go. Default: the cache of `datasets`.
        streaming (`bool`): Whether the rows will only be streamed. Then the content is not read for the cache's key,
            and what is replaced or left out is logged once and not counted.
        modalities, feature_sequences, folds, format, labels, label_kind, label_range, on_error, group: See
            `loading.load_aligned_dataset`.
        label_format: What the labels are, where that need not be found, such as those of a model to predict with.
        labels_of_all_splits: Whether that is found in all splits, which will be merged.

    Attributes:
        replaced (`Counter`): How many non-finite values of each modality the build replaced with 0.
        skipped (list of `LeftOut`): The samples that it left out, each with `id`, `reason` and `split`.
            Both are known after `download_and_prepare`, even if it found the cache of an earlier build, and after
            `read_once`.

    Raises:
        DataError: An option is wrong, or there is no such file or folder.
    """

    BUILDER_CONFIG_CLASS = AlignedSentimentConfig
    DATASET_NAME = "aligned_sentiment"
    STANDARD_FOLDS: Mapping[str, Sequence[str]] | None = None

    def __init__(
        self, data_dir: str | Path, *, cache_dir: str | Path | None = None, streaming: bool = False, **options: Any
    ):
        if (on_error := options.get("on_error", "raise")) not in ON_ERROR:
            raise DataError(f"on_error={on_error!r} is unknown; give one of {', '.join(ON_ERROR)}")
        if isinstance(modalities := options.get("modalities"), str):
            raise DataError(f"modalities={modalities!r} is one string; give a list: {modalities.split(',')}")
        content = "streamed" if streaming else _content_hash(Path(data_dir), options.get("format"))
        key = [READER_VERSION, content, options]
        # `datasets` prepares a cache in any case; a stream has none.
        scratch = tempfile.TemporaryDirectory() if streaming else contextlib.nullcontext(cache_dir)
        try:
            with scratch as folder:
                super().__init__(
                    cache_dir=str(folder) if folder else None,
                    dataset_name=self.DATASET_NAME,
                    hash=hashlib.sha256(json.dumps(key, sort_keys=True, default=list).encode()).hexdigest(),
                    config_id="default",
                    data_dir=str(data_dir),
                    **options,
                )
        except OSError as error:
            raise _no_cache(cache_dir or datasets.config.HF_DATASETS_CACHE, error) from None
        self.replaced: Counter[str] = Counter()
        self.skipped: list[LeftOut] = []
        self._num_unused_labels, self._first_unused_label = 0, ""
        self._streaming = streaming
        self._logged: set[str] = set()

    def _build_cache_dir(self) -> str:
        """The folder of the cache, without what is left of a damaged one."""
        folder = Path(super()._build_cache_dir())
        if remove_damaged(folder, folder.with_name(f"{folder.name}_builder.lock")):  # the lock of `datasets`
            logger.warning("%s: this cache is damaged and is built again", folder)
        return str(folder)

    def _save_info(self) -> None:
        super()._save_info()
        seal(Path(self._output_dir).iterdir())

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return self._open()[1]

    def _open(self) -> tuple[Source, list[datasets.SplitGenerator]]:
        source = open_source(
            Path(self.config.data_dir),
            format=self.config.format,
            labels=self.config.labels,
            label_kind=self.config.label_kind,
            label_range=self.config.label_range,
            label_format=self.config.label_format,
            labels_of_all_splits=self.config.labels_of_all_splits,
            modalities=self.config.modalities,
            feature_sequences=self.config.feature_sequences,
            folds=self.config.folds,
            group=self.config.group,
        )
        sizes = wanted_sizes(source, self.config.modalities)
        self.info.features = row_features(
            sizes,
            source.timed,
            label_format=None if self.config.labels is False else source.label_format,
            feature_extractors=source.feature_extractors,
            weighted=source.weighted,
            group=source.group,
        )
        self.info.config_name = source.format
        self.info.description = columns_left_out(source)
        return source, [
            datasets.SplitGenerator(
                split,
                gen_kwargs={
                    "shards": shards,
                    "rows": source.rows,
                    "sizes": sizes,
                    "path": source.path,
                    "split": str(split),
                    "label_format": source.label_format,
                },
            )
            for split, shards in source.splits.items()
        ]

    def read_once(self) -> tuple[int, Iterator[tuple[str, pa.Table]]]:
        """Reads all rows in their order, without a cache and, from tables, in constant memory.

        Returns:
            About how many rows there are, and tables of them, each with the name of its split. Their features are in
            `info`, and `skipped` and `replaced` are known when all has been read.
        """
        source, splits = self._open()

        def tables() -> Iterator[tuple[str, pa.Table]]:
            for split in splits:
                for table in self._tables(**split.gen_kwargs):
                    yield str(split.name), table
            self._log_report()

        return source.count_rows() if source.count_rows else sum(map(len, source.splits.values())), tables()

    def _generate_tables(self, **options: Any) -> Iterator[tuple[Key, pa.Table]]:
        for index, table in enumerate(self._tables(**options)):
            yield Key(0, index), table
        if self._streaming:
            self._log_once()

    def _tables(
        self,
        shards: list,
        rows: Callable,
        sizes: dict[str, int],
        path: Path,
        split: str,
        label_format: LabelFormat,
    ) -> Iterator[pa.Table]:
        found = itertools.chain.from_iterable(map(rows, shards))
        wanted = None if self.config.labels is None else bool(self.config.labels)
        checked = checked_rows(found, sizes, labels=wanted, label_format=label_format)
        accepted = self._accepted_rows(checked, path, split)
        features = self.info.features
        for batch in row_batches(accepted):
            table, replaced = rows_to_table(batch, features)
            self.replaced += replaced
            yield table

    def _prepare_split_single(self, *, gen_kwargs: dict[str, Any], job_id: int, **options: Any) -> Iterator[tuple]:
        """Builds one process's share of a split, and records beside the Arrow files what it left out."""
        self._forget_report()
        try:
            yield from super()._prepare_split_single(gen_kwargs=gen_kwargs, job_id=job_id, **options)
        except DatasetGenerationError as error:  # its message does not name the cause
            cause = error.__cause__ or error
            if isinstance(cause, DataError):
                raise cause from None
            reason = f"{type(cause).__name__}: {cause}"[:300]
            raise DataError(
                f"{gen_kwargs['path']}: the {gen_kwargs['split']} split cannot be built ({reason})"
            ) from cause
        report = {
            "replaced": self.replaced,
            "skipped": [skipped._asdict() for skipped in self.skipped],
            "num_unused_labels": self._num_unused_labels,
            "first_unused_label": self._first_unused_label,
        }
        name = f"report-{gen_kwargs['split']}-{job_id:05d}.json"
        Path(self._output_dir, name).write_text(json.dumps(report), encoding="utf-8")

    def _forget_report(self) -> None:
        self.replaced, self.skipped = Counter(), []
        self._num_unused_labels, self._first_unused_label = 0, ""

    def _read_reports(self) -> None:
        self._forget_report()
        for split in self.info.splits:
            for file in sorted(Path(self._output_dir).glob(f"report-{split}-*.json")):
                report = json.loads(file.read_text(encoding="utf-8"))
                self.replaced.update(report["replaced"])
                self.skipped += [LeftOut(**skipped) for skipped in report["skipped"]]
                self._num_unused_labels += report["num_unused_labels"]
                self._first_unused_label = self._first_unused_label or report["first_unused_label"]

    def _accepted_rows(
        self, rows: Iterable[Row | Skipped | Replaced | UnusedLabel], path: Path, split: str
    ) -> Iterator[Row]:
        for item in rows:
            if isinstance(item, Replaced):
                self.replaced[item.modality] += int(item.num_values)
            elif isinstance(item, UnusedLabel):
                self._num_unused_labels += 1
                self._first_unused_label = self._first_unused_label or f"sample {item.id}: {item.reason}"
            elif not isinstance(item, Skipped):
                yield item
            elif item.fault and self.config.on_error == "raise":
                raise DataError(
                    f"{path}: sample {item.id}: {item.reason}; to leave such samples out give --on_error skip to "
                    "cpsl predict, or to cpsl convert and train on what it writes (in Python: on_error='skip')"
                )
            else:
                self.skipped.append(LeftOut(item.id, item.reason, split))

    def download_and_prepare(self, *args: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Builds the Arrow cache unless it already exists, and logs what the build replaced and left out.

        Duplicate ids and videos in several splits are looked for, and logged, where there are labels to train on.
        """
        check_at_least_1(num_proc=num_proc)
        try:
            with interrupting_once():
                super().download_and_prepare(*args, num_proc=num_proc, **kwargs)
        except OSError as error:
            raise _no_cache(self._cache_dir_root, error) from None
        self._read_reports()
        self._log_report()
        if self.config.labels:
            self._log_warnings()

    def _log_report(self) -> None:
        path = self.config.data_dir
        for message in (self.info.description, *self._label_messages()):
            if message:
                logger.warning("%s: %s", path, message)
        for name, count in sorted(self.replaced.items()):
            if count:
                logger.warning("%s: %d non-finite %s values were replaced with 0", path, count, name)
        if self._num_unused_labels:
            labels = counted(self._num_unused_labels, "label")
            logger.warning("%s: %s left empty, the first: %s", path, labels, self._first_unused_label)
        if self.skipped:
            reasons = reasons_left_out((skipped.id, skipped.reason) for skipped in self.skipped)
            more = f"; and {counted(len(reasons) - 20, 'other reason')}" if len(reasons) > 20 else ""
            samples = counted(len(self.skipped), "sample")
            logger.warning("%s: left out %s: %s%s", path, samples, "; ".join(reasons[:20]), more)

    def _label_messages(self) -> list[str]:
        """What is said of labels that are classes: which there are, and what is odd about them."""
        label_format = label_format_of(self.info.features)
        if not self.config.labels or label_format is None or label_format.ranges:
            return []
        return [f"a label is {classes_text(label_format)}", *class_warnings(label_format)]

    def _log_once(self) -> None:
        """Logs what a stream replaces and leaves out, once and without counts, for a stream may be read many times."""
        messages = {f"non-finite {name} values are replaced with 0" for name in self.replaced}
        messages |= {f"left out {skipped.id} ({skipped.reason})" for skipped in self.skipped}
        if self._first_unused_label:
            messages.add(f"labels that are wrong are left empty, the first: {self._first_unused_label}")
        messages |= {self.info.description, *self._label_messages()} - {""}
        for message in sorted(messages - self._logged):
            logger.warning("%s: %s", self.config.data_dir, message)
        self._logged |= messages
        self._forget_report()

    def as_dataset(self, *args: Any, **kwargs: Any) -> datasets.DatasetDict | datasets.Dataset:
        """What was built, as `datasets.DatasetBuilder.as_dataset` gives it.

        Raises:
            DataError: A split has no sample.
        """
        for name, split in self.info.splits.items():
            if not split.num_examples:
                reasons = [f"{skipped.id}: {skipped.reason}" for skipped in self.skipped if skipped.split == name]
                why = f" ({len(reasons)} left out, the first: {reasons[0]})" if reasons else ""
                raise DataError(
                    f"{self.config.data_dir}: the {name} split is empty{why}; give it samples or leave it out"
                )
        return super().as_dataset(*args, **kwargs)

    def _log_warnings(self) -> None:
        path = self.config.data_dir
        splits = self.as_dataset()
        with leak_search() as search:
            for name, split in splits.items():
                search.add(name, split["id"][:], split["video_id"][:])
            for message in search.messages():
                logger.warning("%s: %s", path, message)
        for name, standard in (self.STANDARD_FOLDS or {}).items():
            if name in splits and (others := sorted(set(splits[name]["video_id"][:]) - set(standard))):
                logger.warning(
                    "%s: %s of the %s split outside of %s's standard %s fold; the first is %s",
                    path, counted(len(others), "video"), name, self.DATASET_NAME, name, others[0],
                )  # fmt: skip


def _no_cache(folder: str | Path, error: OSError) -> DataError:
    return DataError(
        f"{folder}: no cache can be made here ({error.strerror or one_line(error)}); set HF_DATASETS_CACHE to another "
        "folder (in Python: cache_dir=...)"
    )


def _content_hash(path: Path, format: str | None) -> str:
    return content_hash(source_files(path, format=format), path if path.is_dir() else path.parent)

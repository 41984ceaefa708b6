"""Predictions for every utterance of a data set, written to a table; an interrupted call can be continued."""

import contextlib
import datetime
import hashlib
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from data_builders import make_builder
from data_builders.builder import LeftOut
from data_builders.columns import feature_extractors, modality_sizes, rows_of
from data_builders.files import DataError, check_at_least_1, locked

from ..pipeline_cpsl import BATCHES_IN_WINDOW, MultimodalSentimentPipeline
from ..task_cpsl import Task
from ..tasks_cpsl import SENTIMENT, task_of
from .console import quiet_libraries, without_messages
from .label_formats import format_of
from .loading import load_config, load_pipeline
from .prediction_results import (
    ResultStore,
    find_journals,
    journal_of,
    known_results,
    open_journal,
    temporary_results,
)
from .prediction_tables import (
    INTEGER,
    NUMBER,
    TEXT,
    WRITERS,
    Columns,
    change_ends,
    label_cells,
    needed_columns,
    part_cells,
    prediction_columns,
    result_cells,
    share_cells,
    share_columns,
    uncertainty_cells,
    uncertainty_columns,
    write_table,
)


logger = logging.getLogger(__name__)

LONGEST_WAIT = datetime.timedelta(days=30)  # of a process for the others


@quiet_libraries()
def predict_table(
    model: str,
    data: str,
    out: str | os.PathLike,
    *,
    batch_size: int = 32,
    device: str | None = None,
    num_samples: int = 1,
    explain: bool | str = False,
    on_error: str = "raise",
    **data_options: Any,
) -> tuple[int, int, int]:
    """Predicts every utterance of a data set and writes the results to a table.

    `out` is a function of the data: one row for each utterance, in the order of the data. A result is known by the
    digest of the model, the options and the utterance's words and features. What `out` holds already is therefore not
    computed again, whatever the utterances are called and wherever they stand, and utterances with equal words and
    features share one result. While a call runs, results go to a journal, `<out>.partial.jsonl`; if the call is
    interrupted, the next one with the same `out` continues from there.

    With `num_samples` above 1 this holds except for chance: results are means over random draws. What `out` holds
    already stays as it is, but removed and computed again it would differ a little.

    Memory does not grow with the number of utterances, if `data` is in tables; what is known goes to a temporary file.

    Started by `accelerate launch` or `torchrun`, the processes share the work: each predicts its part of the data into
    a journal of its own, and the first one writes the table, which is that of one process but for rounding. The next
    call, with any number of processes, continues from all journals.

    Args:
        model: Folder or Hub id of a CPSL model.
        data: Anything that [`load_aligned_dataset`] reads; labels are not needed. A modality of the model that the
            data lacks counts as missing in every utterance; a warning names it.
        out: A `.parquet`, `.jsonl` or `.csv` file; docs/reference.md describes its columns. An utterance that was
            skipped is tried again by the next call. Samples that the reader could not read come last. The file must
            not lie in a folder in which tables of `data` are looked for.
        batch_size: Number of utterances in a forward pass.
        device: As for `pipeline`.
        num_samples: As for [`MultimodalSentimentPipeline`].
        explain: As for [`MultimodalSentimentPipeline`].
        on_error: `raise`, or `skip` to leave out bad utterances and continue.
        **data_options: `data_dir`, `format`, `modalities` and `labels`, as for [`load_aligned_dataset`]; a modality of
            the model that is not among them, text included, counts as missing. Without `labels`, true labels are
            copied where there are right ones.

    Returns:
        The numbers of utterances that were predicted now, that had been predicted before, and that were skipped; of
        several processes the same in each.

    Raises:
        ValueError: An argument is out of range, an utterance is bad, the features come from another extractor than
            the model's, `out` holds something else than predictions of this model with these options, has an unknown
            suffix or lies among the data, or `model` is not a CPSL model.
        OSError: Nothing can be written to `out`, or another process is writing there.
    """
    out = Path(out)
    _check_arguments(out, Path(data_options.get("data_dir") or data), batch_size, num_samples)
    with _processes(device) as processes, _lock(out, processes), temporary_results() as results:
        processes.wait_for_everyone()  # for the lock
        config = load_config(model)
        label_format = format_of(task_of(config))
        source = _open_data(data, config.modality_sizes, on_error=on_error, label_format=label_format, **data_options)
        sentiment = load_pipeline(model, device or (None if processes.num_processes == 1 else processes.device))
        sentiment.processor.check_extractors(source.extractors)
        call = _Call(
            sentiment,
            {"batch_size": batch_size, "num_samples": num_samples, "explain": explain, "on_error": "skip"},
            _model_digest(sentiment, num_samples, explain),
            results,
        )
        columns, needed = _table_columns(call), needed_columns(call.task)
        for digest, result in known_results([out], find_journals(out), call.digest, columns, needed):
            if "error" not in result:
                results.add(digest, result, is_new=False)
        processes.wait_for_everyone()  # so that all have read the journals before anybody appends
        with open_journal(journal_of(out, processes.process_index)) as stream:
            _predict_all(call, source, stream, processes, raises=on_error == "raise")
        processes.wait_for_everyone()
        counts: Counter[str] = Counter()
        if processes.is_main_process:
            journals = find_journals(out)
            if len(journals) > 1:
                _add_results_of_others(call, journals, columns)
            write_table(_table_rows(call, counts), columns, out)
            for journal in journals:
                journal.unlink()
            if num_cut := counts["cut"]:
                longest = sentiment.processor.max_length
                logger.warning(
                    "%s: %d utterances were cut to max_length=%d tokens, see num_cut", out, num_cut, longest
                )
        (counts,) = broadcast_object_list([counts])
    return counts["new"], counts["before"], counts["skipped"]


class _Source(NamedTuple):
    """The data: its name, about how many rows it has, the rows, what was left out, the extractors by modality."""

    name: str
    num_rows: int
    rows: Iterator[dict[str, Any]]
    left_out: list[LeftOut]
    extractors: dict[str, str]


class _Call(NamedTuple):
    """What a call predicts with, the digest of everything in it that results depend on, and the results."""

    sentiment: MultimodalSentimentPipeline
    options: dict[str, Any]
    digest: str
    results: ResultStore

    @property
    def task(self) -> Task:
        """What labels are."""
        return self.sentiment.model.task

    @property
    def modalities(self) -> list[str]:
        """The modalities of the model."""
        config = self.sentiment.model.config
        return [*(["text"] if config.use_text else []), *config.modality_sizes]


# What is checked before anything is loaded


def _check_arguments(out: Path, data: Path, batch_size: int, num_samples: int) -> None:
    check_at_least_1(batch_size=batch_size, num_samples=num_samples)
    if out.suffix not in WRITERS:
        raise ValueError(f"{out}: the suffix {out.suffix!r} is not one of {', '.join(WRITERS)}; rename the output")
    if out.is_dir():
        raise ValueError(f"{out}: this is a folder; name a file in it")
    if out.resolve().parent in (data.resolve(), (data / "data").resolve()):  # where tables are looked for
        raise ValueError(f"{out}: it would be read as data from then on; put it in another folder than the data")


# The processes


@contextlib.contextmanager
def _processes(device: str | None) -> Iterator[PartialState]:
    """Accelerate's state of the processes that predict together; a single process leaves it as it was."""
    is_new = not PartialState._shared_state
    on_cpu = str(device).startswith("cpu") or not torch.accelerator.is_available()
    processes = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)
    try:
        yield processes
    finally:
        if is_new and processes.num_processes == 1:  # or what this process does later would be on the CPU too
            PartialState._reset_state()


def _lock(out: Path, processes: PartialState) -> contextlib.AbstractContextManager[None]:
    return locked(out) if processes.is_main_process else contextlib.nullcontext()


# The data


def _open_data(data: str, sizes: dict[str, int], *, labels: list[str] | None = None, **options: Any) -> _Source:
    """Opens the data, to be read once, with those of the model's modalities that it has."""
    wanted = options.get("modalities")
    builder = make_builder(data, labels=labels, streaming=True, **options)
    num_rows, tables = builder.read_once()
    found = modality_sizes(builder.info)
    if wanted is None and "timing" in sizes and "timing" not in found and "word_start" in builder.info.features:
        options["modalities"] = ["text", "timing", *(name for name in sizes if name in found)]
        builder = make_builder(data, labels=labels, streaming=True, **options)
        num_rows, tables = builder.read_once()
        found = modality_sizes(builder.info)
    for name, size in sizes.items():
        if found.get(name, size) != size:
            raise ValueError(
                f"{data}: the {name} features have size {found[name]}, but the model was trained on size {size}; "
                "give features of the same extractor"
            )
    columns = ["id", "label", "words", *(name for name in sizes if name in found)]
    without_text: dict[str, list[str]] = {} if wanted is None or "text" in wanted else {"words": []}
    rows = (row | {"split": split} | without_text for split, table in tables for row in rows_of(table.select(columns)))
    extractors = {name: made_by for name, made_by in feature_extractors(builder.info).items() if name in sizes}
    return _Source(data, num_rows, rows, builder.skipped, extractors)


def _warn_of_missing_modalities(data: str, rows: Sequence[dict[str, Any]], modalities: Iterable[str]) -> None:
    columns = {name: "words" if name == "text" else name for name in modalities}
    lacking = [name for name, column in columns.items() if not any(len(row.get(column, ())) for row in rows)]
    if lacking:
        logger.warning(
            "%s: there is no %s in the first %d utterances; the model predicts them without",
            data, ", no ".join(lacking), len(rows),
        )  # fmt: skip


# Digests


def _model_digest(sentiment: MultimodalSentimentPipeline, num_samples: int, explain: bool | str) -> str:
    """What every result depends on: weights, configuration, processor, tokenizer, options and version."""
    config, processor = sentiment.model.config, sentiment.processor
    settings = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    settings |= {"max_length": processor.max_length, "feature_statistics": processor.feature_statistics}
    settings |= {"tokenizer": processor.tokenizer.backend_tokenizer.to_str(), "version": version("cpsl")}
    settings |= {"num_samples": num_samples, "explain": explain}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for _, tensor in sorted(sentiment.model.state_dict().items()):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _result_digest(model_digest: str, row: dict[str, Any]) -> str:
    """What one result depends on: the model and the options, and the utterance's words and features."""
    digest = hashlib.sha256(json.dumps([model_digest, row["words"]]).encode())
    for name in sorted(row.keys() - {"id", "split", "label", "words"}):
        digest.update(f"{name} {row[name].shape}".encode() + np.ascontiguousarray(row[name]).tobytes())
    return digest.hexdigest()[:16]


# Predictions


def _predict_all(call: _Call, source: _Source, journal: TextIO, processes: PartialState, *, raises: bool) -> None:
    """Predicts what is not known yet, a window at a time; the main process appends every utterance to the table.

    The processes take windows by turns.
    """
    window_size = call.options["batch_size"] * BATCHES_IN_WINDOW
    # `disable=None`: the bar shows on terminals only.
    is_hidden = None if processes.is_main_process else True
    bar = tqdm(total=source.num_rows, desc="predicting", unit="utt", disable=is_hidden)
    # What is cut is counted once, at the end.
    with bar, without_messages("modeling_cpsl.processing_cpsl", "were cut to max_length"):
        for number in itertools.count():
            if not (window := list(itertools.islice(source.rows, window_size))):
                break
            is_own = number % processes.num_processes == processes.process_index
            if not (is_own or processes.is_main_process):
                continue
            if number == 0:
                _warn_of_missing_modalities(source.name, window, call.modalities)
            digests = [_result_digest(call.digest, row) for row in window]
            errors = _predict_window(call, digests, window, journal) if is_own else {}
            for row, digest in zip(window, digests, strict=True):
                if raises and digest in errors:
                    raise DataError(
                        f"{source.name}: sample {row['id']} of the {row['split']} split: {errors[digest]}; to leave "
                        "such samples out give --on_error skip (in Python: on_error='skip')"
                    )
                label, task = row["label"], call.task
                shown = None if label is None else task.sample_labels(task.checked_label(label))
                call.results.append({name: row[name] for name in ("id", "split")} | label_cells(shown), digest)
            bar.update(len(window))
        bar.total = bar.n  # what was known before was about that
    for left in source.left_out:
        call.results.append({"id": left.id, "split": left.split, "error": left.reason})


def _predict_window(
    call: _Call, digests: Sequence[str], rows: Sequence[dict[str, Any]], journal: TextIO
) -> dict[str, str]:
    """Predicts those of the rows whose result is not known; gives the errors of the others by digest."""
    missing: dict[str, dict[str, Any]] = {}
    for digest, row in zip(digests, rows, strict=True):
        if digest not in call.results:
            missing.setdefault(digest, row)
    errors = {}
    utterances = (row | {"words": row["words"] or None} for row in missing.values())
    results: Iterator[dict[str, Any]] = call.sentiment(utterances, **call.options)  # type: ignore[assignment]
    try:
        for (digest, row), result in zip(missing.items(), results, strict=True):
            if "error" in result:  # without the utterance's name, since utterances with equal inputs share it
                errors[digest] = result["error"].partition(f"(id {row['id']}): ")[2]
                columns = {"error": errors[digest]}
            else:
                columns = result_columns(result, call.task)
            call.results.add(digest, columns, is_new=True)
            journal.write(json.dumps({**columns, "model": call.digest, "digest": digest}) + "\n")
    except torch.OutOfMemoryError as error:
        size = call.options["batch_size"]
        raise ValueError(f"batch_size={size} needs more memory than the device has; give a smaller one") from error
    return errors


def _add_results_of_others(call: _Call, journals: Sequence[Path], columns: Columns) -> None:
    """Adds what all processes have found; where only some of them have met an error, the results count."""
    for of_errors in (False, True):
        for digest, result in known_results([], journals, call.digest, columns, needed_columns(call.task)):
            if ("error" in result) == of_errors:
                call.results.add(digest, result, is_new=True)


# The table


def _table_columns(call: _Call) -> dict[str, pa.DataType]:
    task, others = call.task, [name for name in call.modalities if name != "text"]
    columns = {"id": TEXT, "split": TEXT, **prediction_columns(call.sentiment.model.unimodal_names, task)}
    if call.options["explain"]:
        columns |= {f"weight_{name}": NUMBER for name in others}
        columns |= {f"delta_{name}{end}": NUMBER for name in call.modalities for end in change_ends(task)}
        weighed = itertools.chain.from_iterable((call.sentiment.model.config.decision_weights or {}).values())
        columns |= {f"decision_weight_{name}": NUMBER for name in sorted({*weighed})}
    if call.options["explain"] == "words":
        columns |= share_columns(task)
    columns |= uncertainty_columns(task, drawn=call.options["num_samples"] > 1)
    return columns | {"num_cut": INTEGER, "error": TEXT, "model": TEXT, "digest": TEXT}


def result_columns(result: dict[str, Any], task: Task = SENTIMENT) -> dict[str, Any]:
    """A result of the pipeline as columns of a table of predictions."""
    columns = {"num_cut": result["num_cut"], **result_cells(result, task)}
    if "word_shares" in result:
        columns |= share_cells(result["word_shares"], task)
    for name, weight in (result.get("decision_weights") or {}).items():
        columns[f"decision_weight_{name}"] = weight
    for modality, part in result["modalities"].items():
        columns |= part_cells(modality, part, task)
    return columns | uncertainty_cells(result["uncertainty"] or {}, task)


def _table_rows(call: _Call, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The finished rows; counts the new ones, those from before, those skipped and, of all, those that were cut."""
    for row, is_new in call.results.rows():
        counts["skipped" if "error" in row else "new" if is_new else "before"] += 1
        counts["cut"] += bool(row.get("num_cut"))
        yield row | {"model": call.digest}


__all__ = ["predict_table", "result_columns"]

"""Predictions for a whole data set, to a table that grows and can be gone on with."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import pipeline

from data_builders import make_builder
from data_builders.columns import feature_extractors, modality_sizes
from data_builders.files import replacing_file

from ..modeling_cpsl import CPSLModelMixin
from ..pipeline_cpsl import TASK, MultimodalSentimentPipeline


Key = tuple[str, str, int]  # split, id, and how often that id came before

TEXTS = {"id": str, "split": str, "model": str, "inputs": str}
READ_TABLE = {
    ".parquet": pd.read_parquet,
    # An id may be "NA"; only an empty cell is none.
    ".csv": lambda path: pd.read_csv(path, dtype=TEXTS, keep_default_na=False, na_values=[""]),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=TEXTS),
}
WRITE_TABLE = {
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".jsonl": lambda table, path: table.to_json(path, orient="records", lines=True, force_ascii=False),
}


def predict_table(
    model: str,
    data: str,
    out: str | os.PathLike,
    *,
    batch_size: int = 32,
    device: str | None = None,
    num_samples: int = 1,
    explain: bool = False,
    on_error: str = "raise",
    **data_options: Any,
) -> tuple[int, int, int]:
    """Predicts every utterance of a data set that has not been predicted yet.

    Results are kept as they come in `<out>.partial.jsonl`, which the next call for the same `out` goes on with after
    an interruption of any kind, and take their place in `out` at the end. An utterance is known by its split, its id
    and how often that id came before, and predicted again where its words or features are not the same any more.

    Args:
        model: Folder or Hub id of a CPSL model.
        data: Anything that [`load_aligned_dataset`] reads; labels are not needed. A modality of the model's that it
            lacks is missing in all utterances.
        out: A `.parquet`, `.jsonl` or `.csv` file: `id`, `split`, `score`, `label`, `acc7_class`, a `score_<modality>`
            each and what else the pipeline says; `error` where an utterance was skipped, which the next call tries
            again; and the digests `model`, of the model's weights and of the options, and `inputs`, of the utterance's
            words and features. It may not stand among the tables of a folder of data.
        batch_size: Utterances in a forward pass.
        device: As for `pipeline`.
        num_samples: As for the pipeline.
        explain: As for the pipeline.
        on_error: `raise`, or `skip` bad utterances.
        **data_options: `data_dir` and `format`, as for [`load_aligned_dataset`].

    Returns:
        How many utterances were predicted now, had been before, and were skipped.

    Raises:
        ValueError: An utterance is bad, the features are another extractor's, `out` is another model's, of an unknown
            kind or among the data, or `model` is no CPSL model.
    """
    out = Path(out)
    if out.suffix not in WRITE_TABLE:
        raise ValueError(f"{out}: {out.suffix or 'no suffix'} is none of {', '.join(WRITE_TABLE)}")
    folder = Path(data_options.get("data_dir") or data)
    if out.resolve().parent in (folder.resolve(), (folder / "data").resolve()):  # where tables are looked for
        raise ValueError(f"{out}: it would be read as data from then on; put it in another folder than the data")
    sentiment = _load_pipeline(model, device)
    digest = _digest(sentiment, num_samples, explain)
    journal = out.with_name(f"{out.name}.partial.jsonl")
    known = _read_known(out, journal, digest)
    dataset, skipped = _load_data(data, sentiment.model.config.modality_sizes, on_error=on_error, **data_options)
    sentiment.processor.check_extractors(feature_extractors(next(iter(dataset.values()))))
    keys = {name: _keys(name, split["id"]) for name, split in dataset.items()}
    inputs = {key: digest for name, split in dataset.items() for key, digest in _input_digests(keys[name], split)}
    rows = {key: known.pop(key) for key in inputs if key in known}
    rows = {key: row for key, row in rows.items() if row["inputs"] == inputs[key]}
    before = len(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    options = {"batch_size": batch_size, "num_samples": num_samples, "explain": explain, "on_error": on_error}
    with (
        journal.open("a", encoding="utf-8", buffering=1) as stream,
        tqdm(total=sum(map(len, keys.values())), initial=before, desc="predicting", unit="utt") as progress,
    ):
        for name, split in dataset.items():
            left = [index for index, key in enumerate(keys[name]) if key not in rows]
            for index, result in zip(left, sentiment(_utterances(split, left), **options), strict=True):
                key = keys[name][index]
                rows[key] = {"id": key[1], "split": name, **_flat(result), "model": digest, "inputs": inputs[key]}
                stream.write(json.dumps({"occurrence": key[2], **rows[key]}) + "\n")
                progress.update()
    # What is in `out` and no longer in the data stays, behind the data's own: of a repeated id the data has the first.
    table = [*(rows[key] for key in inputs), *known.values()]
    table += [
        {"id": left.id, "split": left.split, "error": left.reason, "model": digest, "inputs": None} for left in skipped
    ]
    with replacing_file(out) as temporary:
        WRITE_TABLE[out.suffix](pd.DataFrame(table), temporary)
    journal.unlink()
    num_errors = sum(row.get("error") is not None for row in rows.values())
    return len(rows) - before - num_errors, before, num_errors + len(skipped)


def _keys(split: str, ids: Iterable[Any]) -> list[Key]:
    """What tells the utterances of a split apart: ids may occur in every split, and more than once."""
    counts: Counter[str] = Counter()
    keys = []
    for sample_id in map(str, ids):
        keys.append((split, sample_id, counts[sample_id]))
        counts[sample_id] += 1
    return keys


def _input_digests(keys: Iterable[Key], split: Dataset) -> Iterator[tuple[Key, str]]:
    """What each utterance's result depends on, the model apart: its words and features."""
    for key, row in zip(keys, split, strict=True):
        digest = hashlib.sha256(json.dumps(list(row["words"])).encode())
        for name in sorted(row.keys() - {"id", "words"}):
            digest.update(f"{name} {row[name].shape}".encode() + np.ascontiguousarray(row[name]).tobytes())
        yield key, digest.hexdigest()[:16]


def _load_pipeline(model: str, device: str | None) -> MultimodalSentimentPipeline:
    try:
        sentiment = pipeline(TASK, model=model, device=device)
    # What a wrong folder, broken weights and a device that is not there raise.
    except (OSError, ValueError, AttributeError, RuntimeError, AssertionError, SafetensorError) as error:
        raise ValueError(f"{model}: no CPSL model could be loaded: {error}") from error
    if not isinstance(sentiment.model, CPSLModelMixin):
        raise ValueError(f"{model}: {type(sentiment.model).__name__} is no CPSL model; train one with run_train.py")
    return sentiment


def _digest(sentiment: MultimodalSentimentPipeline, num_samples: int, explain: bool) -> str:
    """What a row depends on: the weights, the processor's settings, the calibration and the options."""
    config, processor = sentiment.model.config, sentiment.processor
    settings = [processor.max_length, processor.feature_statistics, config.interval_half_widths, num_samples, explain]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for _, tensor in sorted(sentiment.model.state_dict().items()):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _read_known(out: Path, journal: Path, digest: str) -> dict[Key, dict[str, Any]]:
    """The good rows of earlier calls; a last line that a kill cut short is taken off the journal."""
    known: dict[Key, dict[str, Any]] = {}
    if out.exists():
        try:
            table = READ_TABLE[out.suffix](out)
        except (ValueError, OSError) as error:
            raise ValueError(f"{out}: no table of predictions: {error}") from error
        rows = _checked(table.astype(object).where(table.notna(), None).to_dict("records"), out, digest)
        occurrences: Counter[tuple[str, str]] = Counter()
        for row in rows:
            place = (row["split"], str(row["id"]))
            known[*place, occurrences[place]] = row
            occurrences[place] += 1
    if journal.exists():
        text = journal.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            with replacing_file(journal) as temporary:
                temporary.write_text(whole, encoding="utf-8")
        try:
            rows = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise ValueError(f"{journal}: no predictions of an interrupted call: {error}; remove it") from error
        for row in _checked(rows, out, digest):
            known[row["split"], row["id"], row.pop("occurrence")] = row
    return {key: row for key, row in known.items() if row.get("error") is None}


def _checked(rows: list[dict[str, Any]], out: Path, digest: str) -> list[dict[str, Any]]:
    for row in rows:
        if not {"id", "split", "model", "inputs"} <= row.keys():
            raise ValueError(f"{out}: it is there and no table of predictions; name another output")
        if row["model"] != digest:
            raise ValueError(
                f"{out}: it holds predictions of another model or with other options; name another output or remove it"
            )
    return rows


def _load_data(data: str, sizes: dict[str, int], **options: Any) -> tuple[DatasetDict, list[Any]]:
    """The data with those modalities of the model's that it has, and the samples that were left out."""
    dataset, skipped = _build(data, **options)
    first = next(iter(dataset.values()))
    found = modality_sizes(first)
    if "timing" in sizes and "timing" not in found and "word_start" in first.features:
        wanted = ["timing", *(name for name in sizes if name in found)]
        dataset, skipped = _build(data, modalities=wanted, **options)
        found = modality_sizes(next(iter(dataset.values())))
    for name, size in sizes.items():
        if found.get(name, size) != size:
            raise ValueError(f"{data}: {name} features have size {found[name]}, the model was trained on {size}")
    columns = ["id", "words", *(name for name in sizes if name in found)]
    splits = {name: split.select_columns(columns).with_format("numpy") for name, split in dataset.items()}
    return DatasetDict(splits), skipped


def _build(data: str, **options: Any) -> tuple[DatasetDict, list[Any]]:
    builder = make_builder(data, labels=False, **options)
    builder.download_and_prepare()
    return builder.as_dataset(), builder.skipped


def _utterances(samples: Dataset, indices: list[int]) -> Iterator[dict[str, Any]]:
    for index in indices:
        row = samples[index]
        yield row | {"words": list(row["words"]) or None}


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    """A pipeline's result as columns."""
    if "error" in result:
        return {"error": result["error"]}
    columns = {name: result[name] for name in ("score", "label", "acc7_class")}
    for modality, part in result["modalities"].items():
        columns |= {f"{name}_{modality}": value for name, value in (part or {"score": None}).items()}
    uncertainty = dict(result["uncertainty"] or {})
    if "interval" in uncertainty:
        columns["interval_low"], columns["interval_high"] = uncertainty.pop("interval")
    return columns | uncertainty


__all__ = ["predict_table"]

"""Predictions for a whole data set, to a table that grows and can be gone on with."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from tqdm import tqdm
from transformers import pipeline

from data_builders import load_aligned_dataset

from .collation import feature_extractors, modality_sizes
from .modeling_cpsl import CPSLModelMixin
from .pipeline_cpsl import TASK, MultimodalSentimentPipeline
from .reporting import replacing


READ_TABLE = {
    ".parquet": pd.read_parquet,
    ".csv": lambda path: pd.read_csv(path, dtype={"id": str, "model": str}),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype={"id": str, "model": str}),
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
    an interruption of any kind, and take their place in `out` at the end.

    Args:
        model: Folder or Hub id of a CPSL model.
        data: Anything that [`load_aligned_dataset`] reads; labels are not needed. A modality of the model's that it
            lacks is missing in all utterances.
        out: A `.parquet`, `.jsonl` or `.csv` file: `id`, `split`, `score`, `label`, `acc7_class`, a `score_<modality>`
            each and what else the pipeline says; `error` where an utterance was skipped; and `model`, a digest of the
            model's weights.
        batch_size: Utterances in a forward pass.
        device: As for `pipeline`.
        num_samples: As for the pipeline.
        explain: As for the pipeline.
        on_error: `raise`, or `skip` bad utterances.
        **data_options: `data_dir` and `format`, as for [`load_aligned_dataset`].

    Returns:
        How many utterances were predicted now, had been before, and were skipped.

    Raises:
        ValueError: An utterance is bad, the features are another extractor's, `out` is another model's or of an
            unknown kind, or `model` is no CPSL model.
    """
    out = Path(out)
    if out.suffix not in WRITE_TABLE:
        raise ValueError(f"{out}: {out.suffix or 'no suffix'} is none of {', '.join(WRITE_TABLE)}")
    sentiment = _load_pipeline(model, device)
    digest = _digest(sentiment)
    journal = out.with_name(f"{out.name}.partial.jsonl")
    done = _read_done(out, journal, digest)
    dataset = _load_data(data, sentiment.model.config.modality_sizes, on_error=on_error, **data_options)
    sentiment.processor.check_extractors(feature_extractors(next(iter(dataset.values()))))
    seen = set(done["id"]) if len(done) else set()
    left = {
        split: [index for index, sample_id in enumerate(samples["id"]) if sample_id not in seen]
        for split, samples in dataset.items()
    }
    total = sum(map(len, dataset.values()))
    before = total - sum(map(len, left.values()))
    out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    options = {"batch_size": batch_size, "num_samples": num_samples, "explain": explain, "on_error": on_error}
    with (
        journal.open("a", encoding="utf-8", buffering=1) as stream,
        tqdm(total=total, initial=before, desc="predicting", unit="utt") as progress,
    ):
        for split, samples in dataset.items():
            results = sentiment(_utterances(samples, left[split]), **options)
            for sample_id, result in zip(samples.select(left[split])["id"], results, strict=True):
                row = {"id": str(sample_id), "split": split, **_flat(result), "model": digest}
                stream.write(json.dumps(row) + "\n")
                rows.append(row)
                progress.update()
    table = pd.concat([done, pd.DataFrame(rows)], ignore_index=True) if len(done) else pd.DataFrame(rows)
    with replacing(out) as temporary:
        WRITE_TABLE[out.suffix](table, temporary)
    journal.unlink()
    skipped = sum("error" in row for row in rows)
    return len(rows) - skipped, before, skipped


def _load_pipeline(model: str, device: str | None) -> MultimodalSentimentPipeline:
    try:
        sentiment = pipeline(TASK, model=model, device=device)
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{model}: no CPSL model could be loaded: {error}") from error
    if not isinstance(sentiment.model, CPSLModelMixin):
        raise ValueError(f"{model}: {type(sentiment.model).__name__} is no CPSL model; train one with run_train.py")
    return sentiment


def _digest(sentiment: MultimodalSentimentPipeline) -> str:
    """What predictions depend on: the weights, the processor's settings and the calibration."""
    config = sentiment.model.config
    settings = [sentiment.processor.max_length, sentiment.processor.feature_statistics, config.interval_half_width]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for _, tensor in sorted(sentiment.model.state_dict().items()):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _read_done(out: Path, journal: Path, digest: str) -> pd.DataFrame:
    """The rows of earlier calls; a last line that a kill cut short is taken off the journal."""
    tables = []
    if out.exists():
        try:
            tables.append(READ_TABLE[out.suffix](out))
        except (ValueError, OSError) as error:
            raise ValueError(f"{out}: no table of predictions: {error}") from error
    if journal.exists():
        text = journal.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            with replacing(journal) as temporary:
                temporary.write_text(whole, encoding="utf-8")
        tables.append(pd.DataFrame([json.loads(line) for line in whole.splitlines()]))
    tables = [table for table in tables if len(table)]
    for table in tables:
        if not {"id", "model"} <= set(table.columns):
            raise ValueError(f"{out}: it is there and no table of predictions; name another output")
        if set(table["model"]) != {digest}:
            raise ValueError(f"{out}: it holds predictions of another model; name another output or remove it")
    return pd.concat(tables, ignore_index=True).drop_duplicates("id") if tables else pd.DataFrame()


def _load_data(data: str, sizes: dict[str, int], **options: Any) -> DatasetDict:
    """The data with those modalities of the model's that it has."""
    dataset = load_aligned_dataset(data, labels=False, **options)
    first = next(iter(dataset.values()))
    found = modality_sizes(first)
    if "timing" in sizes and "timing" not in found and "word_start" in first.features:
        wanted = ["timing", *(name for name in sizes if name in found)]
        dataset = load_aligned_dataset(data, labels=False, modalities=wanted, **options)
        found = modality_sizes(next(iter(dataset.values())))
    for name, size in sizes.items():
        if found.get(name, size) != size:
            raise ValueError(f"{data}: {name} features have size {found[name]}, the model was trained on {size}")
    columns = ["id", "words", *(name for name in sizes if name in found)]
    return DatasetDict({name: split.select_columns(columns).with_format("numpy") for name, split in dataset.items()})


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

"""Predictions for every utterance of a data set, written to a table; an interrupted call can be continued."""

import hashlib
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, concatenate_datasets
from tqdm import tqdm
from transformers import pipeline

from data_builders import make_builder
from data_builders.columns import feature_extractors, modality_sizes
from data_builders.files import broken_files_are_data_errors, replacing_file

from ..configuration_cpsl import CPSLConfigMixin
from ..modeling_cpsl import CPSLModelMixin
from ..pipeline_cpsl import TASK, MultimodalSentimentPipeline
from .console import quiet_libraries


_TEXT_COLUMNS = {"id": str, "split": str, "model": str, "digest": str}
READ_TABLE = {
    ".parquet": pd.read_parquet,
    # An id may be the text "NA"; only an empty cell is missing.
    ".csv": lambda path: pd.read_csv(path, dtype=_TEXT_COLUMNS, keep_default_na=False, na_values=[""]),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=_TEXT_COLUMNS, precise_float=True),
}
WRITE_TABLE = {
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".jsonl": lambda table, path: table.to_json(
        path, orient="records", lines=True, force_ascii=False, double_precision=15
    ),
}
WAY_OUT = "remove it or name another output"


@quiet_libraries()
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
    """Predicts every utterance of a data set and writes the results to a table.

    `out` is a function of the data: one row for each utterance, in the order of the data. A result is known by the
    digest of the model, the options and the utterance's words and features. What `out` holds already is therefore not
    computed again, whatever the utterances are called and wherever they stand, and utterances with equal words and
    features share one result. While a call runs, results go to a journal, `<out>.partial.jsonl`; if the call is
    interrupted, the next one with the same `out` continues from there.

    With `num_samples` above 1 this holds except for chance: results are means over random draws. What `out` holds
    already stays as it is, but removed and computed again it would differ a little.

    Args:
        model: Folder or Hub id of a CPSL model.
        data: Anything that [`load_aligned_dataset`] reads; labels are not needed. A modality of the model that the
            data lacks counts as missing in every utterance.
        out: A `.parquet`, `.jsonl` or `.csv` file with the columns `id`, `split`, `score`, `label`, `acc7_class`,
            `score_<modality>` for each modality and whatever else the pipeline reports; `error` for an utterance that
            was skipped, which the next call tries again; `model`, the digest of the model and the options; and
            `digest`, that of the result. Samples that the reader could not read come last. The file must not lie in a
            folder in which tables of `data` are looked for.
        batch_size: Number of utterances in a forward pass.
        device: As for `pipeline`.
        num_samples: As for [`MultimodalSentimentPipeline`].
        explain: As for [`MultimodalSentimentPipeline`].
        on_error: `raise`, or `skip` to leave out bad utterances and continue.
        **data_options: `data_dir` and `format`, as for [`load_aligned_dataset`].

    Returns:
        The numbers of utterances that were predicted now, that had been predicted before, and that were skipped.

    Raises:
        ValueError: An utterance is bad, the features come from another extractor than the model's, `out` holds
            something else than predictions of this model with these options, has an unknown suffix or lies among the
            data, or `model` is not a CPSL model.
    """
    out = Path(out)
    _check_place(out, Path(data_options.get("data_dir") or data))
    sentiment = _load_pipeline(model, device)
    model_digest = _model_digest(sentiment, num_samples, explain)
    journal = out.with_name(f"{out.name}.partial.jsonl")
    results = _known_results(out, journal, model_digest)
    dataset, left_out = _load_data(data, sentiment.model.config.modality_sizes, on_error=on_error, **data_options)
    sentiment.processor.check_extractors(feature_extractors(dataset))
    digests = [_result_digest(model_digest, row) for row in dataset]
    num_before = sum(digest in results for digest in digests)
    missing: dict[str, int] = {}
    for index, digest in enumerate(digests):
        if digest not in results:
            missing.setdefault(digest, index)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "num_samples": num_samples,
        "explain": explain,
        "on_error": on_error,
    }
    predictions = sentiment((_utterance(dataset[index]) for index in missing.values()), **options)
    # `disable=None`: the bar shows on terminals only.
    progress = tqdm(predictions, total=len(missing), desc="predicting", unit="utt", disable=None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8", buffering=1) as stream:
        for (digest, index), result in zip(missing.items(), progress, strict=True):
            if "error" in result:  # without the utterance's name, since utterances with equal inputs share it
                results[digest] = {"error": result["error"].partition(f"(id {dataset[index]['id']}): ")[2]}
            else:
                results[digest] = _columns(result)
                stream.write(json.dumps({**results[digest], "model": model_digest, "digest": digest}) + "\n")
    table = [
        {"id": sample_id, "split": split, **results[digest], "model": model_digest, "digest": digest}
        for sample_id, split, digest in zip(dataset["id"], dataset["split"], digests, strict=True)
    ]
    table += [{"id": left.id, "split": left.split, "error": left.reason, "model": model_digest} for left in left_out]
    _write_table(table, out)
    journal.unlink()
    num_skipped = sum("error" in row for row in table)
    return len(table) - num_before - num_skipped, num_before, num_skipped


def _check_place(out: Path, data: Path) -> None:
    """Refuses an output of an unknown kind, and one that would be read as data from then on."""
    if out.suffix not in WRITE_TABLE:
        raise ValueError(f"{out}: the suffix {out.suffix!r} is not one of {', '.join(WRITE_TABLE)}; rename the output")
    if out.resolve().parent in (data.resolve(), (data / "data").resolve()):  # where tables are looked for
        raise ValueError(f"{out}: it would be read as data from then on; put it in another folder than the data")


def _load_pipeline(model: str, device: str | None) -> MultimodalSentimentPipeline:
    """The pipeline of a model, which has scored an utterance: some damages show only then."""
    way_out = "name the folder or Hub id of a CPSL model that `cpsl train` has finished, and a device that is there"
    with broken_files_are_data_errors(model, "CPSL model", way_out):
        sentiment = pipeline(TASK, model=model, device=device)
        if not isinstance(sentiment.model, CPSLModelMixin):
            raise TypeError(f"it is a {type(sentiment.model).__name__}")
        features = {name: np.zeros((1, size)) for name, size in sentiment.model.config.modality_sizes.items()}
        sentiment({"words": ["a"], **features}, explain=True)
    return sentiment


def _model_digest(sentiment: MultimodalSentimentPipeline, num_samples: int, explain: bool) -> str:
    """What every result depends on: weights, settings of model and processor, tokenizer, calibration and options."""
    config, processor = sentiment.model.config, sentiment.processor
    settings = {option.name: getattr(config, option.name) for option in fields(CPSLConfigMixin)}
    settings |= {"max_length": processor.max_length, "feature_statistics": processor.feature_statistics}
    settings |= {"tokenizer": processor.tokenizer.backend_tokenizer.to_str()}
    settings |= {"num_samples": num_samples, "explain": explain}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for _, tensor in sorted(sentiment.model.state_dict().items()):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _result_digest(model_digest: str, row: dict[str, Any]) -> str:
    """What one result depends on: the model and the options, and the utterance's words and features."""
    digest = hashlib.sha256(json.dumps([model_digest, list(row["words"])]).encode())
    for name in sorted(row.keys() - {"id", "split", "words"}):
        digest.update(f"{name} {row[name].shape}".encode() + np.ascontiguousarray(row[name]).tobytes())
    return digest.hexdigest()[:16]


def _known_results(out: Path, journal: Path, model_digest: str) -> dict[str, dict[str, Any]]:
    """The results of earlier calls by their digest, without errors."""
    results: dict[str, dict[str, Any]] = {}
    for path, read in ((out, _read_table), (journal, _read_journal)):
        try:
            rows = read(path) if path.exists() else []
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: not readable predictions ({error}); {WAY_OUT}") from error
        for row in rows:
            if not isinstance(row, dict) or not {"model", "digest"} <= row.keys():
                raise ValueError(f"{path}: not predictions of this version (rows without a digest); {WAY_OUT}")
            if row["model"] != model_digest:
                raise ValueError(f"{path}: predictions of another model or with other options; {WAY_OUT}")
            if row.get("error") is None:
                results[row["digest"]] = {name: row[name] for name in row if name not in (*_TEXT_COLUMNS, "error")}
    return results


def _read_table(path: Path) -> list[dict[str, Any]]:
    table = READ_TABLE[path.suffix](path)
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _write_table(rows: list[dict[str, Any]], path: Path) -> None:
    table = pd.DataFrame(rows)
    if "acc7_class" in table:  # an integer in every table, also beside an error
        table["acc7_class"] = table["acc7_class"].astype("Int64")
    with replacing_file(path) as temporary:
        WRITE_TABLE[path.suffix](table, temporary)


def _read_journal(path: Path) -> list[Any]:
    """The rows of an interrupted call; a last line that a kill cut short is removed from the file."""
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        with replacing_file(path) as temporary:
            temporary.write_text(complete, encoding="utf-8")
    return [json.loads(line) for line in complete.splitlines()]


def _load_data(data: str, sizes: dict[str, int], **options: Any) -> tuple[Dataset, list[Any]]:
    """The utterances of all splits with those of the model's modalities that they have; what the reader left out."""
    dataset, left_out = _build(data, **options)
    found = modality_sizes(dataset)
    if "timing" in sizes and "timing" not in found and "word_start" in dataset.features:
        wanted = ["timing", *(name for name in sizes if name in found)]
        dataset, left_out = _build(data, modalities=wanted, **options)
        found = modality_sizes(dataset)
    for name, size in sizes.items():
        if found.get(name, size) != size:
            raise ValueError(
                f"{data}: the {name} features have size {found[name]}, but the model was trained on size {size}; "
                "give features of the same extractor"
            )
    columns = ["id", "split", "words", *(name for name in sizes if name in found)]
    return dataset.select_columns(columns).with_format("numpy"), left_out


def _build(data: str, **options: Any) -> tuple[Dataset, list[Any]]:
    builder = make_builder(data, labels=False, **options)
    builder.download_and_prepare()
    splits = builder.as_dataset()
    with_names = [split.add_column("split", [name] * len(split)) for name, split in splits.items()]
    return concatenate_datasets(with_names), builder.skipped


def _utterance(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"words": list(row["words"]) or None}


def _columns(result: dict[str, Any]) -> dict[str, Any]:
    """A result of the pipeline as columns of the table."""
    columns = {name: result[name] for name in ("score", "label", "acc7_class")}
    for modality, part in result["modalities"].items():
        columns |= {f"{name}_{modality}": value for name, value in (part or {"score": None}).items()}
    uncertainty = dict(result["uncertainty"] or {})
    if "interval" in uncertainty:
        columns["interval_low"], columns["interval_high"] = uncertainty.pop("interval")
    return columns | uncertainty


__all__ = ["predict_table"]

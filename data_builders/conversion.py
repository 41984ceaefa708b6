"""Turns any readable data into sharded Parquet, which `datasets.load_dataset` reads and streams without us."""

import json
import math
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from .arrow_rows import label_format_of
from .columns import modality_sizes
from .files import DataError, new_folder
from .labels import LabelFormat, classes_text, range_text


ROWS_PER_GROUP = 256  # what a stream holds at once: about 2 MB of COVAREP and FACET


def write_parquet(splits: datasets.DatasetDict, folder: Path, *, shard_megabytes: float = 64) -> list[Path]:
    """Writes files such as `data/train-00000-of-00004.parquet`, and a dataset card.

    Args:
        splits: What `load_aligned_dataset` gives.
        folder: A new folder; it appears when everything is written, or not at all.
        shard_megabytes: About how large a file may be.

    Returns:
        The Parquet files.

    Raises:
        DataError: The folder exists already, or the size is not above 0.
        WriteError: A file could not be written.
    """
    if not shard_megabytes > 0:
        raise DataError(f"shard_megabytes={shard_megabytes} is not the size of a file; give a number above 0")
    if folder.exists():
        raise DataError(f"{folder}: exists already; give a new folder")
    with new_folder(folder) as unfinished:
        (unfinished / "data").mkdir()
        for name, split in splits.items():
            count = min(max(math.ceil(split.data.nbytes / (shard_megabytes * 2**20)), 1), max(len(split), 1))
            for index in range(count):
                shard = split.shard(count, index, contiguous=True)
                _write_file(shard, unfinished / "data" / f"{name}-{index:05d}-of-{count:05d}.parquet")
        dataset_card(splits).save(unfinished / "README.md")
    return sorted((folder / "data").iterdir())


def _write_file(shard: datasets.Dataset, path: Path) -> None:
    """Writes like `Dataset.to_parquet`, and notes the format, by which it is known later what was normalised."""
    schema = shard.features.arrow_schema
    noted = json.loads(schema.metadata[b"huggingface"])
    noted["info"]["config_name"] = shard.info.config_name
    schema = schema.with_metadata({"huggingface": json.dumps(noted)})
    with (
        pa.OSFile(os.fsencode(path), "wb") as file,  # a name need not be UTF-8
        pq.ParquetWriter(file, schema, use_content_defined_chunking=True, write_page_index=True) as writer,
    ):
        for batch in shard.with_format("arrow").iter(ROWS_PER_GROUP):
            writer.write_table(batch)


def _label_in_words(label_format: LabelFormat) -> str:
    if label_format.kind in ("class", "classes"):
        return f"({classes_text(label_format)})"
    if label_format.kind == "number":
        return f"in {range_text(label_format.ranges[0])}" if label_format.ranges[0] else ""
    ranges = zip(label_format.names, label_format.ranges, strict=True)
    return f"of {', '.join(f'{name} in {range_text(bounds)}' if bounds else name for name, bounds in ranges)}"


def dataset_card(splits: datasets.DatasetDict) -> DatasetCard:
    """The README of a converted dataset: how it is loaded, what its rows are, and how many."""
    first = next(iter(splits.values()))
    sizes = modality_sizes(first)
    files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits]
    data = DatasetCardData(
        pretty_name=first.info.dataset_name,
        task_categories=["text-classification"],
        tags=["multimodal-sentiment-analysis"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    modalities = "\n".join(f"- `{name}`: one row of {size} values a word" for name, size in sizes.items())
    label_format = label_format_of(first.features)
    label = "" if label_format is None else f", a `label` {_label_in_words(label_format)}"
    counts = "\n".join(f"| {name} | {len(split)} |" for name, split in splits.items())
    return DatasetCard(
        f"---\n{data.to_yaml()}\n---\n\n"
        f"# Word-aligned multimodal sentiment data ({first.info.dataset_name})\n\n"
        f"Converted from the format `{first.info.config_name}`. Each row is one utterance: `id`, `video_id`,\n"
        f"`words`{label} and, for each modality, an array with one row a word (none where missing):\n\n"
        f"{modalities}\n\n| split | utterances |\n|---|---|\n{counts}\n\n"
        '```python\nimport datasets\n\nsplits = datasets.load_dataset("path/of/this/folder")\n```\n\n'
        "The licence is that of the data it was converted from.\n"
    )

"""Feature arrays in `.npy` and `.npz` files that a table refers to by path."""

import io
import zipfile

import numpy as np
import pytest
from table_cases import GOOD, write_jsonl

from data_builders import DataError, load_aligned_dataset


def test_paths_are_relative_to_the_table_and_stay_in_the_folder(tmp_path, cache):
    folder = tmp_path / "corpus"
    for name in ("data", "features"):
        (folder / name).mkdir(parents=True)
        np.save(folder / name / "0.npy", np.full((2, 1), len(name)))
    np.save(tmp_path / "0.npy", np.ones((2, 1)))
    row = {"words": ["a", "b"], "label": 1}
    rows = [{**row, "acoustic": "0.npy"}, {**row, "acoustic": "../features/0.npy"}]
    write_jsonl(folder / "data" / "train.jsonl", rows)
    split = load_aligned_dataset(folder, cache_dir=cache)["train"].with_format("numpy")
    assert [float(features[0, 0]) for features in split["acoustic"]] == [4, 8]
    with pytest.raises(DataError, match=r"sample train-1: '\.\./features/0\.npy' is outside of"):
        load_aligned_dataset(folder / "data" / "train.jsonl", cache_dir=cache)
    write_jsonl(folder / "data" / "train.jsonl", [rows[0], {**row, "acoustic": "../../0.npy"}])
    with pytest.raises(DataError, match=r"sample train-1: '\.\./\.\./0\.npy' is outside of"):
        load_aligned_dataset(folder, cache_dir=cache)


def test_only_what_the_cache_is_keyed_by_is_read(tmp_path, cache):
    with (tmp_path / "b.feat").open("wb") as file:
        np.save(file, np.ones((2, 1)))
    (tmp_path / "old.npy").symlink_to("nowhere")
    (tmp_path / "folder.npy").mkdir()
    path = write_jsonl(tmp_path / "mine.jsonl", [GOOD, {**GOOD, "id": "bad_1", "acoustic": "b.feat"}])
    with pytest.raises(DataError, match=r"sample bad_1: 'b\.feat' is not the path of a \.npy or \.npz file"):
        load_aligned_dataset(path, cache_dir=cache)


def test_an_archive_is_opened_once_a_row_however_many_arrays_it_has(tmp_path, cache, monkeypatch):
    """A row of 300 arrays took a second."""
    arrays = {f"m{index:03}": np.full((2, 1), index) for index in range(60)}
    for name in ("0.npz", "1.npz"):
        np.savez(tmp_path / name, **arrays, note=np.array("no modality"))
    rows = [{"words": ["a", "b"], "label": 1, "features": name} for name in ("0.npz", "1.npz")]
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, *args, **kwargs):
            opened.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    split = load_aligned_dataset(write_jsonl(tmp_path / "mine.jsonl", rows), cache_dir=cache)["train"]
    assert len(opened) == 2 * len(rows)  # for the sizes and for the rows
    row = split[1]
    assert [row[name] for name in arrays] == [[[index], [index]] for index in range(60)]


# Small files do not take large memory.


def test_another_number_of_rows_is_refused_before_they_are_read(tmp_path, cache):
    with zipfile.ZipFile(tmp_path / "0.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        stream = io.BytesIO()
        np.save(stream, np.zeros((400_000, 1)))
        content = stream.getvalue()
        archive.writestr("acoustic.npy", content)
        archive.writestr("cut.npy", content[:200])
    path = write_jsonl(tmp_path / "mine.jsonl", [GOOD, {**GOOD, "id": "bad_1", "acoustic": "0.npz"}])
    with pytest.raises(DataError, match="sample bad_1: 400000 rows of acoustic for 2 words"):
        load_aligned_dataset(path, cache_dir=cache)


def test_a_sample_has_a_bounded_number_of_values(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("data_builders.rows.MAX_VALUES", 7)
    np.save(tmp_path / "0.npy", np.ones((2, 4)))
    path = write_jsonl(tmp_path / "mine.jsonl", [GOOD, {**GOOD, "id": "bad_1", "acoustic": "0.npy"}])
    with pytest.raises(DataError, match=r"sample bad_1: .*acoustic has shape \(2, 4\), which is more than 7 values"):
        load_aligned_dataset(path, cache_dir=cache)

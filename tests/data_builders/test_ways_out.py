"""Each way out that a message about data names is followed, and the data is read."""

import gzip
import json
import pickle
import re

import numpy as np
import pyarrow as pa
import pytest
from datasets import Array2D, Dataset, Features, List, Value
from pyarrow import feather, parquet

from cpsl import main
from data_builders import DataError, load_aligned_dataset, make_builder
from data_builders.columns import modality_sizes
from data_builders.conversion import write_parquet
from data_builders.cross_validation import cross_validation_splits
from data_builders.distributions import plot


ROW = {"id": "v_1", "words": ["good", "film"], "label": 1.0, "acoustic": [[1.0], [2.0]]}


def read(path, **options):
    """All rows of data, which must have some."""
    tables = [table for _, table in make_builder(path, streaming=True, **options).read_once()[1]]
    return pa.concat_tables(tables).to_pylist()


def command(*arguments):
    assert main(list(map(str, arguments))) == 0


def json_lines(path, *changes):
    path.write_text("".join(json.dumps(ROW | change) + "\n" for change in changes))
    return path


# Cells of a table: what is wrong, the message, and what a user may write in its place.
CELLS = [
    ({"label": None}, "its label is missing .*; add it", {"label": 1.0}),
    ({"label": "good"}, r"write sentiment as a number in \[-3, 3\]", {"label": 2}),
    ({"label": 50}, "or scale all labels to this range", {"label": 50 / 100 * 6 - 3}),
    ({"words": 7}, "the text is the number 7; write texts as strings", {"words": "7 8"}),
    ({"words": "['good' 'film']"}, "how Python or NumPy prints a list; .* JSON", {"words": '["good", "film"]'}),
    ({"acoustic": [1.0, 2.0]}, "repeat a vector of the whole utterance", {"acoustic": [[1.0, 2.0]] * 2}),
    ({"acoustic": [[1.0]]}, "1 rows of acoustic for 2 words; give one for each word", {"acoustic": [[1.0]] * 2}),
    ({"acoustic": "array([[1.], [2.]])"}, "how Python prints it, .*JSON", {"acoustic": "[[1.0], [2.0]]"}),
    ({"acoustic": "clip.wav"}, r"not the path of a \.npy .*; leave the cell empty where", {"acoustic": ""}),
    ({"acoustic": "../a.npy"}, "is outside of .*; put the features beside the table", {"acoustic": "a.npy"}),
    ({"split": "holdout"}, "'holdout' is none of train, .*; rename it", {"split": "test"}),
    ({"id": "v\ud800"}, "an unpaired surrogate; correct or remove it", {"id": "v"}),
]


@pytest.mark.parametrize(("broken", "message", "mended"), CELLS, ids=lambda value: json.dumps(value)[:30])
def test_of_cells(tmp_path, broken, message, mended):
    (tmp_path / "data").mkdir()
    for folder in (tmp_path, tmp_path / "data"):
        np.save(folder / "a.npy", np.ones((2, 1)))
    with pytest.raises(DataError, match=message):
        read(json_lines(tmp_path / "data" / "data.jsonl", broken))
    assert len(read(json_lines(tmp_path / "data" / "data.jsonl", mended))) == 1


# Whole tables: their text, the message, and the text that a user makes of it.
TEXTS = [
    ("id;text;label\nv;good;1\n", "separated by semicolons; separate them by commas", "id,text,label\nv,good,1\n"),
    ('[{"text": "good", "label": 1}]', "are read from JSON lines, one object a line", '{"text": "good", "label": 1}'),
    ("clip,Sentence,Sentiment\nv,good film,1\n", "rename Sentence to text; rename Sentiment to label, if", None),
    ("id,sentence,label\nv,good film,1\n", "no column words or text, and column sentence .* rename it to text", None),
    ("id,text,score\nv,good film,1\n", "no column label among .*; rename score to label, if", None),
    ("id,text,label\n", "a table without rows; write one for each utterance", "id,text,label\nv,good,1\n"),
    (
        "id,text,text,label\nv,good,a,1\n",
        "column text occurs more than once; rename or remove one",
        "text,label\na,1\n",
    ),
    ("id,label\nv,1\n", r"needs a column words \(or text\) or features", 'id,label,voice\nv,1,"[[1.0]]"\n'),
]


@pytest.mark.parametrize(("broken", "message", "mended"), TEXTS, ids=lambda value: str(value)[:24])
def test_of_tables(tmp_path, broken, message, mended):
    path = tmp_path / "data.csv"
    path.write_text(broken)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    if mended is None:  # the message says which columns to rename
        column = re.search(r"column (\w+) looks like", str(caught.value))
        pairs = [(column[1], "text")] if column else re.findall(r"rename (\w+) to (\w+)", str(caught.value))
        mended = broken
        for old, new in pairs:
            mended = mended.replace(old, new, 1)
    path.write_text(mended)
    assert len(read(path)) == 1


def features_that_cannot_be_read(folder):
    """A column called like a modality whose files cannot be read."""
    path = json_lines(folder / "data.jsonl", {"visual": "face.pt"}, {"visual": "face2.pt"})
    yield lambda: read(path), r"name the modalities to read, .*\(--modalities a,b; in Python modalities=\[\.\.\.\]\)"
    yield lambda: command("convert", path, folder / "out", "--modalities", "text,acoustic")
    yield lambda: read(path, modalities=["text", "acoustic"])


def a_modality_that_is_not_there(folder):
    path = json_lines(folder / "data.jsonl", {})
    yield (
        lambda: read(path, modalities=["text", "face"]),
        "no modality 'face' in it; its modalities are: text, acoustic$",
    )
    yield lambda: read(path, modalities=["text", "acoustic"])


def one_string_of_modalities(folder):
    path = json_lines(folder / "data.jsonl", {})
    yield lambda: read(path, modalities="text,acoustic"), r"give a list: \['text', 'acoustic'\]"
    yield lambda: read(path, modalities=["text", "acoustic"])


def a_bad_sample(folder):
    path = json_lines(folder / "data.jsonl", {}, {"id": "w_1", "label": 9})
    yield lambda: read(path), r"give --on_error skip to .* cpsl convert .* \(in Python: on_error='skip'\)"
    yield lambda: read(path, on_error="skip")
    yield lambda: command("convert", path, folder / "out", "--on_error", "skip")
    yield lambda: read(folder / "out")


def no_labels(folder):
    path = folder / "data.jsonl"
    path.write_text('{"id": "v", "text": "good"}\n')
    yield lambda: read(path), r"to inspect or convert it give --no_labels \(in Python: labels=False\)"
    yield lambda: read(path, labels=False)
    yield lambda: command("inspect", path, "--no_labels")
    yield lambda: command("convert", path, folder / "out", "--no_labels")


def labels_in_another_range(folder):
    path = json_lines(folder / "data.jsonl", {"label": 5}, {"id": "w_1", "label": 9})
    yield lambda: read(path), r"label 5 is outside of \[-3, 3\]; .* or give theirs \(--label_range\)"
    yield lambda: read(path, label_range=[1, 9])
    yield lambda: command("inspect", path, "--label_range", "1", "9")
    yield lambda: command("convert", path, folder / "out", "--label_range", "1", "9")
    yield lambda: read(folder / "out")


def names_of_classes_where_one_is_a_number(folder):
    path = json_lines(folder / "data.jsonl", {"label": "joy"}, {"id": "w_1", "label": "1"})
    yield lambda: read(path), "give --label_kind class if labels are names of classes"
    yield lambda: read(path, label_kind="class")
    yield lambda: command("convert", path, folder / "out", "--label_kind", "class")


def a_label_of_another_name(folder):
    path = folder / "data.csv"
    path.write_text("id,text,emotion\nv,good,joy\nw,bad,fear\n")
    yield (
        lambda: read(path),
        "no column label .*; rename emotion to label, if it is the label, or give --labels emotion",
    )
    yield lambda: read(path, labels=["emotion"])
    yield lambda: command("convert", path, folder / "out", "--labels", "emotion")


def a_file_of_a_folder_without_a_split(folder):
    json_lines(folder / "train.jsonl", {})
    other = json_lines(folder / "more.jsonl", {"id": "w_1"})
    yield lambda: read(folder), r"more\.jsonl: its name begins with none of train, .* no column split; rename it"
    yield lambda: other.rename(folder / "test.jsonl")
    yield lambda: read(folder)


def arrays_without_names(folder):
    np.save(folder / "a.npy", np.ones((2, 1)))
    path = json_lines(folder / "data.jsonl", {"features": "a.npy"})
    yield lambda: read(path), "give the column the name of the modality"
    yield lambda: read(json_lines(path, {"acoustic": "a.npy"}))


def an_array_itself(folder):
    np.save(folder / "a.npy", np.ones((2, 1)))
    yield (
        lambda: read(folder / "a.npy"),
        "make a table with its path in the column of its modality, and give the table",
    )
    yield lambda: read(json_lines(folder / "data.jsonl", {"acoustic": "a.npy"}))


def what_save_to_disk_writes(folder):
    split = Dataset.from_list([ROW])
    split.save_to_disk(str(folder / "saved"))
    yield lambda: read(folder / "saved"), r'split\.to_parquet\("train\.parquet"\), and give their folder'
    yield lambda: split.to_parquet(str(folder / "train.parquet"))
    yield lambda: read(folder / "train.parquet")


def a_compressed_table(folder):
    path = json_lines(folder / "data.jsonl", {})
    (folder / "data.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    yield lambda: read(folder / "data.jsonl.gz"), "compressed with gzip; unpack it and give the data file"
    yield lambda: path.write_bytes(gzip.decompress((folder / "data.jsonl.gz").read_bytes()))
    yield lambda: read(path)


def an_arrow_file(folder):
    table = pa.Table.from_pylist([ROW])
    feather.write_feather(table, folder / "data.arrow")
    yield lambda: read(folder / "data.arrow"), "an Arrow file; write it as Parquet"
    yield lambda: parquet.write_table(feather.read_table(folder / "data.arrow"), folder / "data.parquet")
    yield lambda: read(folder / "data.parquet")


def two_files_of_one_split(folder):
    for name in ("dev.pkl", "valid.pkl"):
        (folder / name).write_bytes(pickle.dumps([((["good"], np.ones((1, 2)), np.ones((1, 3))), 1.0, name)]))
    yield lambda: read(folder), r"dev\.pkl and valid\.pkl are both the validation split; keep one or merge them"
    yield lambda: (folder / "valid.pkl").unlink()
    yield lambda: read(folder)


def a_plot_of_another_kind(folder):
    splits = load_aligned_dataset(json_lines(folder / "data.jsonl", {}))
    yield lambda: plot(splits, folder / "plot.pdf"), r"the plot is a PNG file; give a name that ends in \.png"
    yield lambda: plot(splits, folder / "plot.png")


def the_list_of_one_split(folder):
    sample = ((["good"], np.ones((1, 2)), np.ones((1, 3))), 1.0, "v_1")
    (folder / "data.pkl").write_bytes(pickle.dumps([sample]))
    yield lambda: read(folder / "data.pkl"), r"call the file train\.pkl, dev\.pkl or test\.pkl, or give the folder"
    yield lambda: (folder / "data.pkl").rename(folder / "dev.pkl")
    yield lambda: read(folder / "dev.pkl")
    yield lambda: read(folder)


def another_format(folder):
    path = folder / "data.pkl"
    path.write_bytes(pickle.dumps({"train": [((["good"], np.ones((1, 2)), np.ones((1, 3))), 1.0, "v_1")]}))
    yield lambda: read(path, format="mmsa_pickle"), "leave out the format to recognise it"
    yield lambda: read(path)


def options_of_other_formats(folder):
    path = json_lines(folder / "data.jsonl", {})
    yield lambda: read(path, folds={"train": ["v"]}), "table data has no folds; leave this option out"
    yield lambda: read(path)


def data_that_must_be_there(folder):
    path = json_lines(folder / "data.jsonl", {})
    yield lambda: read("mosi"), "mosi: give data_dir, the file or folder"
    yield lambda: read("mosi", data_dir=path)


def a_path_and_data_dir(folder):
    path = json_lines(folder / "data.jsonl", {})
    yield lambda: read(path, data_dir=folder), "data_dir goes with the names mosi, mosei only; give one path"
    yield lambda: read(path)


def a_folder_that_exists(folder):
    path = json_lines(folder / "data.jsonl", {})
    splits = load_aligned_dataset(path)
    yield lambda: write_parquet(splits, folder), "exists already; give a new folder"
    yield lambda: write_parquet(splits, folder / "new")


def too_few_groups(folder):
    path = json_lines(folder / "data.jsonl", *({"id": f"v{number}_1"} for number in range(4)))
    splits = load_aligned_dataset(path)
    yield lambda: cross_validation_splits(splits, 0, 5), "use fewer folds, or another column as fold_group"
    yield lambda: cross_validation_splits(splits, 0, 4)
    yield lambda: cross_validation_splits(splits, 0, 3, group="id")


def lists_of_lists(folder):
    plain = Features({"id": Value("string"), "face": List(List(Value("float32")))})
    split = Dataset.from_dict({"id": ["a"], "face": [[[1.0, 2.0]]]}, features=plain)
    yield lambda: modality_sizes(split), r"cast it to datasets\.Array2D\(\(None, size\), 'float32'\) .*, or remove it"
    yield lambda: modality_sizes(split.cast_column("face", Array2D((None, 2), "float32")))
    yield lambda: modality_sizes(split.remove_columns("face"))


CASES = [
    features_that_cannot_be_read, a_modality_that_is_not_there, one_string_of_modalities, a_bad_sample, no_labels,
    labels_in_another_range, names_of_classes_where_one_is_a_number, a_label_of_another_name,
    a_file_of_a_folder_without_a_split, arrays_without_names, an_array_itself, what_save_to_disk_writes,
    a_compressed_table, an_arrow_file, two_files_of_one_split, a_plot_of_another_kind, the_list_of_one_split,
    another_format, options_of_other_formats, data_that_must_be_there, a_path_and_data_dir,
    a_folder_that_exists, too_few_groups, lists_of_lists,
]  # fmt: skip


def follow(case):
    """A case gives what fails and the message, and then the ways out, which are taken one after the other."""
    (fail, message), *ways = case
    with pytest.raises((DataError, ValueError), match=message):
        fail()
    for way in ways:
        way()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_of_options_and_files(tmp_path, case):
    follow(case(tmp_path))


def frames(size):
    return dict.fromkeys(("one", "two", "three"), (np.ones((4, size)), [(k / 2, k / 2 + 0.5) for k in range(4)]))


def an_unknown_sequence(folder, write_csd):
    write_csd("Mine.csd", "Mine", frames(2), folder)
    yield lambda: read(folder), r"\(--modalities text,acoustic\), move it out .* --feature_sequences acoustic=NAME of"
    yield lambda: read(folder, modalities=["text", "acoustic"])
    yield lambda: read(folder, feature_sequences={"acoustic": "COVAREP", "mine": "Mine"})


def two_sequences_of_words(folder, write_csd):
    words = (["a", "b"], [(0.0, 0.5), (0.5, 1.0)])
    write_csd("Words2.csd", "Words2", dict.fromkeys(("one", "two", "three"), words), folder)
    yield (
        lambda: read(folder),
        r"keep one in the folder, or name its .* \(in Python: feature_sequences=\{\"words\": NAME",
    )
    yield lambda: read(folder, feature_sequences={"words": "Words2", "acoustic": "COVAREP"})
    yield lambda: (folder / "Words2.csd").unlink()
    yield lambda: read(folder)


def videos_of_no_fold(folder, write_csd):
    (folder / "folds.json").unlink()
    yield lambda: read(folder), r"put a folds\.json .* beside the \.csd files \(in Python: or give folds=\)"
    yield lambda: read(folder, folds={"train": ["one", "two", "three"]})
    yield lambda: (folder / "folds.json").write_text('{"train": ["one", "two"], "test": ["three"]}')
    yield lambda: read(folder)


def one_file_of_a_folder(folder, write_csd):
    yield lambda: read(folder / "COVAREP.csd"), "a single HDF5 file; .*folder"
    yield lambda: read(folder)


@pytest.mark.parametrize(
    "case", [an_unknown_sequence, two_sequences_of_words, videos_of_no_fold, one_file_of_a_folder]
)
def test_of_sequences(small_corpus, write_csd, case):
    follow(case(small_corpus, write_csd))

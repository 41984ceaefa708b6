"""What the readers of pickles share: the object of a file, or of a folder with a file for each split."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..alignment import frame_array
from ..files import DataError
from ..rows import SPLIT_ALIASES
from ..safe_pickle import safe_pickle_load


def load_pickles(path: Path) -> Any:
    """The object of a pickle.

    Args:
        path: A file, or a folder that has a file for each split (`train.pkl`, `dev.pkl`, `test.pkl`).

    Returns:
        The object of the file. Where each split has a file of its own, a dict of their objects by the names of the
        files, which is empty for a folder without such files.

    Raises:
        DataError: A file is not a pickle that can be read, two files or keys are the same split, or the file is the
            list of one split and its name does not say which.
    """
    if path.is_dir():
        files = pickle_files(path)
        _refuse_two_of_one_split(path, [file.name for file in files])
        return {file.stem: safe_pickle_load(file) for file in files}
    data = safe_pickle_load(path)
    if isinstance(data, dict):
        _refuse_two_of_one_split(path, data)
    if not isinstance(data, list):
        return data
    if path.stem.lower() not in SPLIT_ALIASES:
        raise DataError(
            f"{path}: the list of one split; call the file train.pkl, dev.pkl or test.pkl, or give the folder"
        )
    return {path.stem: data}


def pickle_files(path: Path) -> list[Path]:
    """A file, or the pickles of a folder that have the name of a split, which is how MISA stores its splits."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".pkl", ".pickle") and file.is_file())
    return [file for file in files if file.stem.lower() in SPLIT_ALIASES]


def modality_sizes(
    path: Path, samples: Iterable[tuple[str, Mapping[str, Any]]], wanted: Collection[str]
) -> dict[str, int]:
    """The size of a feature row of each modality that a pickle has, from the first sample that shows it.

    Args:
        path: The file or folder.
        samples: The name of each sample, and its features by modality as they are in the file.
        wanted: The modalities that must be readable if they are there.

    Raises:
        DataError: No sample's features of a wanted modality can be read.
    """
    sizes: dict[str, int] = {}
    faults: dict[str, str] = {}
    for name, features in samples:
        for modality in sorted(features.keys() - sizes.keys()):
            try:
                frames = frame_array(features[modality], modality)
            except DataError as error:
                faults.setdefault(modality, f"{path}: sample {name}: {error}")
            else:
                sizes |= {} if frames is None else {modality: frames.shape[1]}
        if sizes.keys() == features.keys():
            break
    if unreadable := sorted(faults.keys() & wanted - sizes.keys()):
        raise DataError(
            f"{faults[unreadable[0]]}, and no other sample has {unreadable[0]} that can be read; get the file again, "
            "or name the modalities to read without it (--modalities a,b; in Python modalities=[...])"
        )
    return dict(sorted(sizes.items()))


def _refuse_two_of_one_split(path: Path, names: Iterable[Any]) -> None:
    found: dict[str, str] = {}
    for name in map(str, names):
        split = SPLIT_ALIASES.get(Path(name).stem.lower())
        if split in found:
            raise DataError(f"{path}: {found[split]} and {name} are both the {split} split; keep one or merge them")
        if split:
            found[split] = name


def other_layout(path: Path, data: Any, format_name: str) -> DataError:
    """The error for a pickle whose object is not in the format that it is said to be in."""
    return DataError(f"{path}: not a {format_name}; it holds {describe(data)}; leave out the format to recognise it")


def describe(data: Any) -> str:
    """What an unpickled object is, for a message."""
    if not isinstance(data, dict):
        return f"a {type(data).__name__}"
    layers = [data, *(value for value in data.values() if isinstance(value, dict))]
    if any({"facet", "covarep", "glove"} <= {str(key).lower() for key in layer} for layer in layers):
        return (
            "the four-field mosi.pkl (facet, covarep, glove, label), which has no words and is not the file that "
            "MAG-BERT uses; get the one with words, visual, acoustic, label and segment"
        )
    return f"a dict of {len(data)} keys ({', '.join(str(key)[:30] for key in list(data)[:6])})"

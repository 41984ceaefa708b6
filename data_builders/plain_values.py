"""What an unpickled object may be: arrays, plain values and containers of them, no larger than its file can hold.

A pickle may refer to one value from many places. A file of 500 bytes can so hold lists of lists with 10 billion
numbers, and whoever turns them into an array or a text writes every one of them out.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .files import MAX_COMPRESSION, DataError
from .pickle_constructors import KEY_TYPES, Global


MAX_NESTING = 100
_SCALAR_TYPES = KEY_TYPES | {float, complex, bytearray}
_SIZED_TYPES = (str, bytes, bytearray)
_VALUE_BYTES = 64  # about what a value of Python takes in memory
_SMALL_FILE = 2**16  # smaller files may repeat as much as one of this size


def check_plain(root: Any, file_size: int) -> None:
    """Checks an unpickled object.

    Args:
        root: The object.
        file_size: The size of its file in bytes.

    Raises:
        DataError: A value is not plain; a container contains itself or nests deeper than `MAX_NESTING`; or all values
            together, shared ones as often as they are referred to, take more memory than `MAX_COMPRESSION` times the
            file.
    """
    limit = MAX_COMPRESSION * max(file_size, _SMALL_FILE)
    # By id, of the containers that were looked at to their end: how deep they nest, and their size written out.
    known: dict[int, tuple[int, int]] = {}
    path = [(root, iter(_children(root)), 0, _own_size(root))]
    open_ids = {id(root)}
    while path:
        value, children, height, size = path.pop()
        for child in children:
            if type(child) in _SCALAR_TYPES:
                size += _own_size(child)
                continue
            if id(child) in open_ids:
                raise DataError("the pickle holds a container that contains itself")
            if id(child) not in known:
                path += [(value, children, height, size), (child, iter(_children(child)), 0, _own_size(child))]
                open_ids.add(id(child))
                break
            height, size = max(height, known[id(child)][0] + 1), size + known[id(child)][1]
        else:
            known[id(value)] = height, size
            open_ids.discard(id(value))
            if path:
                parent, siblings, parent_height, parent_size = path.pop()
                path.append((parent, siblings, max(parent_height, height + 1), parent_size + size))
        if len(path) > MAX_NESTING or height > MAX_NESTING:
            raise DataError(f"the pickle nests deeper than {MAX_NESTING}")
        if size > limit:
            raise DataError(
                f"the pickle refers to the same values so often that they would take more than {limit >> 20} MB; "
                "save each value once"
            )


def _own_size(value: Any) -> int:
    if type(value) in _SIZED_TYPES:
        return _VALUE_BYTES + len(value)
    return _VALUE_BYTES + (value.nbytes if isinstance(value, np.ndarray | np.generic) else 0)


def _children(value: Any) -> Iterable[Any]:
    """What a container holds; nothing for a plain value.

    Raises:
        DataError: The value is not a plain one.
    """
    kind = type(value)
    if kind is dict:
        return value.values()
    if kind in (list, tuple, set, frozenset):
        return value
    if kind is np.ndarray:
        return value.ravel().tolist() if value.dtype.hasobject else ()
    if kind in _SCALAR_TYPES or isinstance(value, np.generic):
        return ()
    name = value.name if kind is Global else kind.__name__.strip("_")
    raise DataError(f"the pickle holds {name} itself, which is neither an array nor a plain container")

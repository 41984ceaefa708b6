"""The only objects that a pickle may construct: NumPy arrays, scalars and types, bytes, sets and dicts.

This is the other half of `safe_pickle`, whose machine looks every global up here. A constructor compares the claimed
size of an object with the data that it is given, and all of them together make at most twice as many bytes as the file
has.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .files import DataError


_DTYPE_CODE = re.compile(r"[<>|=]?(?:[?biufcSU]\d{0,9}|O\d?)")
KEY_TYPES = frozenset((str, bytes, int, bool, type(None)))
# Larger integers with equal hashes are easy to write down, and they make a dict quadratic.
_LARGEST_KEY = 2**60


class Global:
    """A name that the pickle looked up. It is inert until `REDUCE` calls its constructor."""

    def __init__(self, name: str, build: Callable[..., Any] | None):
        self.name, self.build = name, build


class _DType:
    """A dtype under construction: a pickle makes it first, and gives its byte order and item size later."""

    def __init__(self, code: str):
        if not _DTYPE_CODE.fullmatch(code):
            raise ValueError(f"arrays of type {code[:40]!r} are not of numbers, strings or objects")
        self.dtype = np.dtype("O" if "O" in code else code)

    def set_state(self, state: tuple) -> None:
        order, subarray, names, fields, itemsize = state[1:6]
        if subarray is not None or names is not None or fields is not None:
            raise ValueError("structured arrays are not supported")
        kind = self.dtype.kind
        if kind in "SU" and itemsize >= 0:
            self.dtype = np.dtype(f"{kind}{itemsize // np.dtype(kind + '1').itemsize}")
        if _text(order) == "<":
            self.dtype = self.dtype.newbyteorder("little")
        elif _text(order) == ">":
            self.dtype = self.dtype.newbyteorder("big")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _raw(data: Any) -> bytes | bytearray:
    """Array data; Python 2 wrote it as a string, which is read as latin-1."""
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray):
        raise ValueError("array data is not bytes")
    return data


class Constructors:
    """The constructors that a pickle of `size` bytes may call, and a count of the bytes that they have made."""

    def __init__(self, size: int):
        self.size = size
        self.made = 0

    def look_up(self, module: str, name: str) -> Global:
        """The inert stand-in of a global that may be named; a DataError names any other."""
        known = re.sub(r"^numpy\.core\b", "numpy._core", module).replace("__builtin__", "builtins")
        builder = _GLOBALS.get((known, name), "refused")
        if builder == "refused":
            raise DataError(
                f"the pickle asks for {str(module)[:100]}.{str(name)[:100]}, which is refused: only NumPy arrays and "
                "plain containers are read; save the data as those"
            )
        return Global(f"{module}.{name}", getattr(self, builder) if builder else None)

    def set_state(self, target: Any, state: Any) -> None:
        """Gives an array or dtype the state that the pickle has for it."""
        if type(state) is not tuple:
            raise ValueError("an object's state is not a tuple")
        if type(target) is _DType:
            target.set_state(state)
        elif type(target) is np.ndarray:
            *_, shape, dtype, fortran_order, data = state
            target.__setstate__((1, shape, *self._checked_data(shape, dtype, data, bool(fortran_order))))
        else:
            raise ValueError(f"it sets the state of a {type(target).__name__}")

    def _charge(self, count: int) -> None:
        """Counts the bytes made from values that were already read; a valid pickle uses each byte at most twice."""
        self.made += count
        if self.made > 2 * self.size:
            raise ValueError(f"it claims more than {self.size} bytes of data, and the whole file has no more")

    def _checked_data(self, shape: Any, dtype: Any, data: Any, fortran_order: bool) -> tuple:
        """An array's dtype, order and data, after its claimed shape was compared with the data that it has."""
        if (
            type(dtype) is not _DType
            or type(shape) is not tuple
            or not all(type(length) is int and length >= 0 for length in shape)
        ):
            raise ValueError("an array has no proper shape or type")
        dtype = dtype.dtype
        size = math.prod(shape)
        if dtype.hasobject:
            found, expected = len(data) if type(data) is list else -1, size
        else:
            data = _raw(data)
            found, expected = len(data), size * dtype.itemsize
        if found != expected or max(shape, default=0) > self.size:
            raise ValueError(f"an array claims shape {shape} of {dtype}, and its data has a length of {found}")
        self._charge(max(found, size))
        if dtype.kind == "U" and found and np.frombuffer(data, dtype.str[0] + "u4").max() > 0x10FFFF:
            raise ValueError("an array of strings holds a value that is not a character")
        return dtype, fortran_order, data

    def _make_array(self, kind: Any, shape: Any, code: Any) -> np.ndarray:
        """NumPy's `_reconstruct`: an empty array, whose state follows."""
        return np.empty(0, np.int8)

    def _make_array_from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        """NumPy's `_frombuffer`, which protocol 5 uses for contiguous arrays."""
        dtype, fortran_order, data = self._checked_data(shape, dtype, data, order == "F")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")

    def _make_scalar(self, dtype: Any, data: Any) -> np.generic:
        dtype, _, data = self._checked_data((), dtype, data, False)
        if dtype.hasobject:
            raise ValueError("a scalar of objects")
        return np.frombuffer(data, dtype)[0]

    def _make_dtype(self, code: Any, *_: Any) -> _DType:
        return _DType(_text(code))

    def _make_encoded(self, text: str, encoding: str = "latin-1") -> bytes:
        """Python 3 writes bytes in protocols 0 to 2 as text that `_codecs.encode` turns back."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise ValueError("bytes are made of latin-1 text only")
        self._charge(len(text))
        return text.encode("latin-1")

    def _make_bytes(self) -> bytes:
        return b""

    def _make_bytearray(self, data: Any = b"", encoding: str = "latin-1") -> bytearray:
        self._charge(len(data))
        return bytearray(_raw(data))

    def _make_set(self, items: Any = ()) -> set:
        self._charge(len(items))
        return set(checked_keys(items))

    def _make_frozenset(self, items: Any = ()) -> frozenset:
        return frozenset(self._make_set(items))

    def _make_dict(self, pairs: Any = ()) -> dict:
        self._charge(len(pairs))
        return dict(zip(checked_keys([key for key, _ in pairs]), [value for _, value in pairs], strict=True))


def checked_keys(keys: Iterable[Any]) -> Iterable[Any]:
    """The same keys, each of a type and size whose hash is cheap; a ValueError for any other."""
    for key in keys:
        if type(key) not in KEY_TYPES or (type(key) is int and abs(key) > _LARGEST_KEY):
            raise ValueError(f"a {type(key).__name__} is in a set or a key; strings, bytes and small integers may be")
    return keys


_GLOBALS = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): "_make_dtype",
    ("numpy._core.multiarray", "_reconstruct"): "_make_array",
    ("numpy._core.multiarray", "scalar"): "_make_scalar",
    ("numpy._core.numeric", "_frombuffer"): "_make_array_from_buffer",
    ("_codecs", "encode"): "_make_encoded",
    ("builtins", "bytes"): "_make_bytes",
    ("builtins", "bytearray"): "_make_bytearray",
    ("builtins", "set"): "_make_set",
    ("builtins", "frozenset"): "_make_frozenset",
    ("collections", "OrderedDict"): "_make_dict",
}

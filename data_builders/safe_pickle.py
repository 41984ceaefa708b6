"""An unpickler that can only make NumPy arrays and plain containers.

A pickle is a program for a small stack machine, and `pickle.load` runs it: it may import and call anything. Here is
that machine without its dangerous half. A global is looked up in a short table of constructors and never imported, so
nothing that a file says is executed, and every amount that a file claims is compared with the bytes that it really has
before anything is allocated, so time and memory are bounded by the size of the file.
"""

import codecs
import math
import os
import pickletools
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np

from .errors import DataError, broken_files_are_data_errors
from .files import open_file, read_head


MAX_NESTING = 100
MAX_OPERATIONS = 100_000_000

_DTYPE_CODE = re.compile(r"[<>|=]?(?:[?biufcSU]\d{0,9}|O\d?)")
_KEY_TYPES = frozenset((str, bytes, int, bool, type(None)))
_SCALAR_TYPES = _KEY_TYPES | {float, complex, bytearray}
# Larger integers with equal hashes are easy to write down, and they make a dict quadratic.
_LARGEST_KEY = 2**60


def safe_pickle_load(path: str | os.PathLike) -> Any:
    """Loads a pickle that holds NumPy arrays, numbers, strings and plain containers of them, and nothing else.

    Protocols 0 to 5, pickles of Python 2 (their strings are read as latin-1) and arrays of any NumPy (`numpy.core` and
    `numpy._core`). Nothing of the file is executed or imported.

    Args:
        path: the pickle's path.

    Returns:
        The object: `dict` (an `OrderedDict` too becomes one), `list`, `tuple`, `set`, `frozenset`, `str`, `bytes`,
        numbers, `None`, `numpy.ndarray` and NumPy scalars.

    Raises:
        DataError: the file is no whole pickle; it asks for any other class or function, which the message names; it
            nests deeper than `MAX_NESTING` or contains itself; it takes more than `MAX_OPERATIONS` steps; or it claims
            more array bytes than the file can hold.
    """
    read_head(path)
    with broken_files_are_data_errors(path, "pickle"), open_file(path) as file:
        machine = _Machine(file, size=os.fstat(file.fileno()).st_size)
        try:
            value = machine.run()
            _check_plain(value)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except (EOFError, TypeError) as error:
            if isinstance(error, TypeError) and file.read(1):  # at the end of the file it is `ord` that got no byte
                raise
            raise DataError(f"{path}: the pickle ends too early; the download is incomplete, get it again") from None
    return value


class _Global:
    """A name that the pickle looked up. It is inert until `REDUCE` calls its constructor."""

    def __init__(self, name: str, build: Callable[..., Any] | None):
        self.name, self.build = name, build


class _DType:
    """A dtype under construction: pickle makes it first, and gives its byte order and item size later."""

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
        if _text(order) in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(_text(order))


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _raw(data: Any) -> bytes | bytearray:
    """Array data; Python 2 wrote it as a string, which is read as latin-1."""
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray):
        raise ValueError("array data is not bytes")
    return data


class _Machine:
    """The stack machine of pickle protocols 0 to 5, over a file of known size."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.read_raw = file.read
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self) -> Any:
        read = self.read_raw
        handlers = {code: getattr(self, name) for code, name in _HANDLERS.items()}
        for _ in range(MAX_OPERATIONS):
            code = read(1)
            handler = handlers.get(code)
            if handler is not None:
                handler()
            elif code == b".":
                return self.stack.pop()
            elif not code:
                raise EOFError
            else:
                operation = pickletools.code2op.get(code.decode("latin-1"))
                raise ValueError(f"operation {operation.name if operation else code} is not allowed")
        raise ValueError(f"it takes more than {MAX_OPERATIONS} operations")

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.size:
            raise ValueError(f"it claims a value of {count} bytes, and the file has {self.size}")
        data = self.file.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def read_sized(self, width: int) -> bytes:
        return self.read(int.from_bytes(self.read(width), "little"))

    def read_line(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line[:-1]

    def charge(self, count: int) -> None:
        """Counts what is made out of values that are there already; an honest pickle uses each byte at most twice."""
        self.copied += count
        if self.copied > 2 * self.size:
            raise ValueError(f"it claims more than {self.size} bytes of data, and the whole file has no more")

    def pop_to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.outer_stacks.pop()
        return items

    # Constants and numbers

    def load_none(self) -> None:
        self.stack.append(None)

    def load_true(self) -> None:
        self.stack.append(True)

    def load_false(self) -> None:
        self.stack.append(False)

    def load_int_line(self) -> None:
        line = self.read_line()
        self.stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))

    def load_long_line(self) -> None:
        self.stack.append(int(self.read_line().rstrip(b"L")))

    def load_uint1(self) -> None:
        self.stack.append(ord(self.read_raw(1)))

    def load_uint2(self) -> None:
        self.stack.append(int.from_bytes(self.read(2), "little"))

    def load_int4(self) -> None:
        self.stack.append(int.from_bytes(self.read(4), "little", signed=True))

    def load_long1(self) -> None:
        self.stack.append(int.from_bytes(self.read_sized(1), "little", signed=True))

    def load_long4(self) -> None:
        self.stack.append(int.from_bytes(self.read_sized(4), "little", signed=True))

    def load_float_line(self) -> None:
        self.stack.append(float(self.read_line()))

    def load_float8(self) -> None:
        self.stack.append(struct.unpack(">d", self.read(8))[0])

    # Strings and bytes

    def load_string_line(self) -> None:
        quoted = self.read_line().strip()
        if len(quoted) < 2 or quoted[:1] not in (b"'", b'"') or quoted[-1:] != quoted[:1]:
            raise ValueError("a string has no quotes")
        self.stack.append(codecs.escape_decode(quoted[1:-1])[0].decode("latin-1"))

    def load_string1(self) -> None:
        self.stack.append(self.read_sized(1).decode("latin-1"))

    def load_string4(self) -> None:
        self.stack.append(self.read_sized(4).decode("latin-1"))

    def load_unicode_line(self) -> None:
        self.stack.append(self.read_line().decode("raw-unicode-escape"))

    def load_unicode1(self) -> None:
        count = ord(self.read_raw(1))
        data = self.read_raw(count)
        if len(data) < count:
            raise EOFError
        self.stack.append(data.decode("utf-8", "surrogatepass"))

    def load_unicode4(self) -> None:
        self.stack.append(self.read_sized(4).decode("utf-8", "surrogatepass"))

    def load_unicode8(self) -> None:
        self.stack.append(self.read_sized(8).decode("utf-8", "surrogatepass"))

    def load_bytes1(self) -> None:
        self.stack.append(self.read_sized(1))

    def load_bytes4(self) -> None:
        self.stack.append(self.read_sized(4))

    def load_bytes8(self) -> None:
        self.stack.append(self.read_sized(8))

    def load_bytearray8(self) -> None:
        self.stack.append(bytearray(self.read_sized(8)))

    # Containers

    def load_empty_tuple(self) -> None:
        self.stack.append(())

    def load_empty_list(self) -> None:
        self.stack.append([])

    def load_empty_dict(self) -> None:
        self.stack.append({})

    def load_empty_set(self) -> None:
        self.stack.append(set())

    def load_tuple(self) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def load_tuple1(self) -> None:
        self.stack[-1] = (self.stack[-1],)

    def load_tuple2(self) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def load_tuple3(self) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def load_list(self) -> None:
        items = self.pop_to_mark()
        self.stack.append(items)

    def load_dict(self) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self.set_items(items)

    def load_frozenset(self) -> None:
        items = self.pop_to_mark()
        self.stack.append(frozenset(_checked_keys(items)))

    def append(self) -> None:
        item = self.stack.pop()
        self.extend([item])

    def appends(self) -> None:
        items = self.pop_to_mark()
        self.extend(items)

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError(f"items are appended to a {type(target).__name__}")
        target.extend(items)

    def load_set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def load_set_items(self) -> None:
        items = self.pop_to_mark()
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("keys and values do not go into a dict")
        target.update(zip(_checked_keys(items[::2]), items[1::2], strict=True))

    def add_items(self) -> None:
        items = self.pop_to_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise ValueError("items do not go into a set")
        target.update(_checked_keys(items))

    # The stack and the memo

    def mark(self) -> None:
        self.outer_stacks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def duplicate(self) -> None:
        self.stack.append(self.stack[-1])

    def put_line(self) -> None:
        self.memo[int(self.read_line())] = self.stack[-1]

    def put1(self) -> None:
        self.memo[ord(self.read_raw(1))] = self.stack[-1]

    def put4(self) -> None:
        self.memo[int.from_bytes(self.read(4), "little")] = self.stack[-1]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get_line(self) -> None:
        self.stack.append(self.memo[int(self.read_line())])

    def get1(self) -> None:
        self.stack.append(self.memo[ord(self.read_raw(1))])

    def get4(self) -> None:
        self.stack.append(self.memo[int.from_bytes(self.read(4), "little")])

    def protocol(self) -> None:
        protocol = self.read(1)[0]
        if protocol > 5:
            raise ValueError(f"pickle protocol {protocol} is unknown")

    def frame(self) -> None:
        self.read(8)

    # Globals, and what may be built with them

    def load_global(self) -> None:
        module, name = self.read_line().decode("utf-8"), self.read_line().decode("utf-8")
        self.push_global(module, name)

    def load_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_global(module, name)

    def load_instance(self) -> None:
        self.load_global()
        raise ValueError("operation INST is not allowed")

    def push_global(self, module: str, name: str) -> None:
        known = re.sub(r"^numpy\.core\b", "numpy._core", module).replace("__builtin__", "builtins")
        builder = _GLOBALS.get((known, name), "refused")
        if builder == "refused":
            raise DataError(
                f"the pickle asks for {str(module)[:100]}.{str(name)[:100]}, which is refused: only NumPy arrays and "
                "plain containers are read; save the data as those"
            )
        self.stack.append(_Global(f"{module}.{name}", getattr(self, builder) if builder else None))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Global or function.build is None or type(arguments) is not tuple:
            raise ValueError("it calls something that is not a function")
        self.stack.append(function.build(*arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(state) is not tuple:
            raise ValueError("an object's state is not a tuple")
        if type(target) is _DType:
            target.set_state(state)
        elif type(target) is np.ndarray:
            *_, shape, dtype, fortran_order, data = state
            target.__setstate__((1, shape, *self.checked_data(shape, dtype, data, bool(fortran_order))))
        else:
            raise ValueError(f"it sets the state of a {type(target).__name__}")

    def checked_data(self, shape: Any, dtype: Any, data: Any, fortran_order: bool) -> tuple:
        """An array's dtype, order and data, after its claimed shape was compared with the data that is there."""
        if type(dtype) is not _DType or type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
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
        self.charge(max(found, size))
        if dtype.kind == "U" and found and np.frombuffer(data, dtype.str[0] + "u4").max() > 0x10FFFF:
            raise ValueError("an array of strings holds what is no character")
        return dtype, fortran_order, data

    def make_array(self, kind: Any, shape: Any, code: Any) -> np.ndarray:
        """NumPy's `_reconstruct`: an empty array, whose state follows."""
        return np.empty(0, np.int8)

    def make_array_from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        """NumPy's `_frombuffer`, which protocol 5 uses for contiguous arrays."""
        dtype, fortran_order, data = self.checked_data(shape, dtype, data, order == "F")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")

    def make_scalar(self, dtype: Any, data: Any) -> np.generic:
        dtype, _, data = self.checked_data((), dtype, data, False)
        if dtype.hasobject:
            raise ValueError("a scalar of objects")
        return np.frombuffer(data, dtype)[0]

    def make_dtype(self, code: Any, *_: Any) -> _DType:
        return _DType(_text(code))

    def make_encoded(self, text: str, encoding: str = "latin-1") -> bytes:
        """Python 3 writes bytes in protocols 0 to 2 as text that `_codecs.encode` turns back."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise ValueError("bytes are made of latin-1 text only")
        self.charge(len(text))
        return text.encode("latin-1")

    def make_bytes(self) -> bytes:
        return b""

    def make_bytearray(self, data: Any = b"", encoding: str = "latin-1") -> bytearray:
        self.charge(len(data))
        return bytearray(_raw(data))

    def make_set(self, items: Any = ()) -> set:
        self.charge(len(items))
        return set(_checked_keys(items))

    def make_frozenset(self, items: Any = ()) -> frozenset:
        return frozenset(self.make_set(items))

    def make_dict(self, pairs: Any = ()) -> dict:
        self.charge(len(pairs))
        return dict(zip(_checked_keys([key for key, _ in pairs]), [value for _, value in pairs], strict=True))


def _checked_keys(keys: Iterable[Any]) -> Iterable[Any]:
    for key in keys:
        if type(key) not in _KEY_TYPES or (type(key) is int and abs(key) > _LARGEST_KEY):
            raise ValueError(f"a {type(key).__name__} is in a set or a key; strings, bytes and small integers may be")
    return keys


def _children(value: Any) -> Iterable[Any]:
    """What a container holds; nothing for a plain value.

    Raises:
        DataError: the value is none of those that `safe_pickle_load` promises.
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
    name = value.name if kind is _Global else kind.__name__.strip("_")
    raise DataError(f"the pickle holds {name} itself, which is neither an array nor a plain container")


def _check_plain(root: Any) -> None:
    """Refuses values that are not plain, cycles, and nesting deeper than `MAX_NESTING`."""
    heights: dict[int, int] = {}
    path = [(root, iter(_children(root)), 0)]
    open_ids = {id(root)}
    while path:
        value, children, height = path.pop()
        for child in children:
            if type(child) in _SCALAR_TYPES:
                continue
            if id(child) in open_ids:
                raise DataError("the pickle holds a container that contains itself")
            known = heights.get(id(child))
            if known is None:
                path += [(value, children, height), (child, iter(_children(child)), 0)]
                open_ids.add(id(child))
                break
            height = max(height, known + 1)
        else:
            heights[id(value)] = height
            open_ids.discard(id(value))
            if path:
                parent, siblings, parent_height = path.pop()
                path.append((parent, siblings, max(parent_height, height + 1)))
        if len(path) > MAX_NESTING or height > MAX_NESTING:
            raise DataError(f"the pickle nests deeper than {MAX_NESTING}")


_GLOBALS = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): "make_dtype",
    ("numpy._core.multiarray", "_reconstruct"): "make_array",
    ("numpy._core.multiarray", "scalar"): "make_scalar",
    ("numpy._core.numeric", "_frombuffer"): "make_array_from_buffer",
    ("_codecs", "encode"): "make_encoded",
    ("builtins", "bytes"): "make_bytes",
    ("builtins", "bytearray"): "make_bytearray",
    ("builtins", "set"): "make_set",
    ("builtins", "frozenset"): "make_frozenset",
    ("collections", "OrderedDict"): "make_dict",
}

_HANDLERS = {
    b"N": "load_none",
    b"\x88": "load_true",
    b"\x89": "load_false",
    b"I": "load_int_line",
    b"L": "load_long_line",
    b"K": "load_uint1",
    b"M": "load_uint2",
    b"J": "load_int4",
    b"\x8a": "load_long1",
    b"\x8b": "load_long4",
    b"F": "load_float_line",
    b"G": "load_float8",
    b"S": "load_string_line",
    b"U": "load_string1",
    b"T": "load_string4",
    b"V": "load_unicode_line",
    b"\x8c": "load_unicode1",
    b"X": "load_unicode4",
    b"\x8d": "load_unicode8",
    b"C": "load_bytes1",
    b"B": "load_bytes4",
    b"\x8e": "load_bytes8",
    b"\x96": "load_bytearray8",
    b")": "load_empty_tuple",
    b"]": "load_empty_list",
    b"}": "load_empty_dict",
    b"\x8f": "load_empty_set",
    b"t": "load_tuple",
    b"\x85": "load_tuple1",
    b"\x86": "load_tuple2",
    b"\x87": "load_tuple3",
    b"l": "load_list",
    b"d": "load_dict",
    b"\x91": "load_frozenset",
    b"a": "append",
    b"e": "appends",
    b"s": "load_set_item",
    b"u": "load_set_items",
    b"\x90": "add_items",
    b"(": "mark",
    b"0": "pop",
    b"1": "pop_to_mark",
    b"2": "duplicate",
    b"p": "put_line",
    b"q": "put1",
    b"r": "put4",
    b"\x94": "memoize",
    b"g": "get_line",
    b"h": "get1",
    b"j": "get4",
    b"\x80": "protocol",
    b"\x95": "frame",
    b"c": "load_global",
    b"\x93": "load_stack_global",
    b"i": "load_instance",
    b"R": "reduce",
    b"b": "build",
}

"""An unpickler that can only make NumPy arrays and plain containers.

A pickle is a program for a small stack machine, and `pickle.load` runs it: it may import and call anything. Here is
that machine without its dangerous half:

- A global is looked up in the short table of `pickle_constructors` and never imported, so nothing that a file says is
  executed.
- Every amount that a file claims is compared with the bytes that it really has before anything is allocated, so time
  and memory are bounded by the size of the file.

Python's own `Unpickler` allocates what a file claims, so it would need a scan of all operations before it. Such a scan
(`pickletools.genops`) alone takes longer than this machine takes for the whole file.
"""

import codecs
import os
import pickletools
import struct
from typing import Any, BinaryIO

from .files import DataError, broken_files_are_data_errors, open_file, read_head
from .pickle_constructors import Constructors, Global, checked_keys
from .plain_values import check_plain


MAX_OPERATIONS = 100_000_000


def safe_pickle_load(path: str | os.PathLike) -> Any:
    """Loads a pickle that holds NumPy arrays, numbers, strings and plain containers of them, and nothing else.

    It reads protocols 0 to 5, pickles of Python 2 (their strings as latin-1) and arrays of every NumPy (`numpy.core`
    and `numpy._core`). Nothing in the file is executed or imported.

    Args:
        path: The path of the pickle.

    Returns:
        The object: a `dict` (an `OrderedDict` becomes one too), `list`, `tuple`, `set`, `frozenset`, `str`, `bytes`,
        `bytearray`, number, `None`, `numpy.ndarray` or NumPy scalar.

    Raises:
        DataError: The file is not a complete pickle; it asks for any other class or function, which the message names;
            it takes more than `MAX_OPERATIONS` steps or claims more bytes than the file can hold; or its object is
            refused by [`check_plain`].
    """
    read_head(path)
    with broken_files_are_data_errors(path, "pickle"), open_file(path) as file:
        machine = _Machine(file, size=os.fstat(file.fileno()).st_size)
        try:
            value = machine.run()
            check_plain(value, machine.size)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except (EOFError, TypeError) as error:
            if isinstance(error, TypeError) and file.read(1):  # at the end of the file it is `ord` that got no byte
                raise
            raise DataError(f"{path}: the pickle ends too early; the download is incomplete, get it again") from None
    return value


class _Machine:
    """The stack machine of pickle protocols 0 to 5, over a file of known size."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.read_raw = file.read
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.constructors = Constructors(size)

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
                names = {operation.code: operation.name for operation in pickletools.opcodes}
                raise ValueError(f"operation {names.get(code.decode('latin-1'), repr(code))} is not allowed")
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
        self.stack.append(frozenset(checked_keys(items)))

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
        target.update(zip(checked_keys(items[::2]), items[1::2], strict=True))

    def add_items(self) -> None:
        items = self.pop_to_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise ValueError("items do not go into a set")
        target.update(checked_keys(items))

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
        self.stack.append(self.constructors.look_up(module, name))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Global or function.build is None or type(arguments) is not tuple:
            raise ValueError("it calls something that is not a function")
        self.stack.append(function.build(*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        self.constructors.set_state(self.stack[-1], state)


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

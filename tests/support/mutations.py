"""Hypothesis strategies for damaged files: their bytes are changed, or the values that they hold.

A value is what a file is made of: nested dicts, lists and tuples with arrays, texts and numbers in them.
"""

import numpy as np
from hypothesis import strategies as st


# Texts that stand for what no serializer writes: `written` puts them into the text of a file.
NESTED, SHARED = "@nested@", "@shared@"
NESTED_TEXT = b"[" * 20_000 + b"]" * 20_000
_LISTS = [f", &v{k} [{', '.join([f'*v{k - 1}'] * 10)}]" for k in range(1, 11)]  # each has the one before 10 times
SHARED_TEXT = f"[&v0 [x]{''.join(_LISTS)}]".encode()
NUMBERS = [0, -1, 1, 3, 10_000, 2**31, 2**63, 10**30, 0.5, 1e300, float("nan"), float("inf")]
TEXTS = ["", "x", "é 😀", "\0", "../x", "1", "nan", "x" * 5_000, "[1, 2", '["x"]', "[[1, 2]]", "x.npz", NESTED, SHARED]
CONTAINERS = [[], {}, [[]], [None], ["x"], [0.5], [[1.0, 2.0]], {"x": 1}, [0] * 2_000, {"x": {"x": [None]}}]
ODD_VALUES = [None, True, False, b"x", *NUMBERS, *TEXTS, *CONTAINERS]
# The same values are referred to 10 billion times, or lie in one another; only a pickle can hold the first.
NESTED_LISTS: list = []
SHARED_LISTS = [0.5]
for _ in range(10):
    SHARED_LISTS = [SHARED_LISTS] * 10
for _ in range(300):
    NESTED_LISTS = [NESTED_LISTS]
ODD_ARRAYS = [
    *(np.zeros(shape) for shape in ((), (0,), (3,), (2, 0), (0, 3), (2, 3), (2, 2, 2), (300, 3))),
    *(np.full((2, 3), value) for value in (np.nan, np.inf, 1e300)),
    *(np.ones((2, 3), dtype) for dtype in ("f2", "i8", "u1", "?", "c8", "S3", "U3", ">f4")),
    np.array([None, "x"], object),
]


@st.composite
def changed_value(draw, value, odd_values):
    """The value with one change at a random place: another value, a part left out, added or under another name."""
    kind = type(value)
    keys = list(value) if kind is dict else list(range(len(value))) if kind in (list, tuple) else []
    if not keys or not draw(st.integers(0, 7)):
        return draw(st.sampled_from(odd_values))
    key = draw(st.sampled_from(keys))
    items = dict(value) if kind is dict else dict(enumerate(value))
    change = draw(st.sampled_from(["within"] * 7 + ["remove", "add", "rename"]))
    if change == "within":
        items[key] = draw(changed_value(items[key], odd_values))
    elif change == "add":
        items[draw(st.sampled_from(["x", "", "0", *map(str, keys)])) if kind is dict else len(items)] = items[key]
    else:
        removed = items.pop(key)
        if change == "rename" and kind is dict:
            items[draw(st.sampled_from(["x", "", str(key).upper()]))] = removed
    return items if kind is dict else kind(items.values())


@st.composite
def changed_bytes(draw, content, others):
    """The bytes with one to four changes: flipped, cut out, repeated, spliced with other files', or made huge."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.integers(1, 16))
        change = draw(st.sampled_from(["flip", "overwrite", "cut out", "splice", "inflate", "cut short"]))
        if change == "flip" and start < len(content):
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif change == "overwrite":
            content[start:end] = draw(st.binary(min_size=1, max_size=16))
        elif change == "cut out":
            del content[start:end]
        elif change == "splice":
            other = draw(st.sampled_from(others))
            begin = draw(st.integers(0, len(other)))
            content[start:start] = other[begin : begin + draw(st.integers(1, 200))]
        elif change == "inflate":
            byte, count = draw(st.sampled_from([b"\xff", b"\x7f", b"\0"])), draw(st.sampled_from([1, 4, 8]))
            content[start : start + 8] = byte * count
        elif change == "cut short" and draw(st.integers(0, 2)) == 0:
            del content[start:]
    return bytes(content)


def written(text):
    """The bytes of a text file, with what no serializer writes in the place of its stand-ins."""
    content = text.encode("utf-8", "surrogatepass")
    for quote in (b'"', b"'", b""):
        content = content.replace(quote + NESTED.encode() + quote, NESTED_TEXT)
        content = content.replace(quote + SHARED.encode() + quote, SHARED_TEXT)
    return content

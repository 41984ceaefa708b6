import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_builders import DataError, safe_pickle_load


keys = st.one_of(st.text(max_size=8), st.binary(max_size=8), st.integers(-(2**40), 2**40), st.booleans(), st.none())
scalars = st.one_of(keys, st.floats(allow_nan=False), st.integers())
arrays = st.one_of(
    hnp.arrays(st.sampled_from(["f4", "f8", "i8", "u1", "?", "S3", "U4", "f2"]), hnp.array_shapes(max_side=4)),
    hnp.arrays("f8", st.tuples(st.integers(0, 3), st.integers(0, 3)), elements=st.floats(allow_nan=False)),
)
values = st.recursive(
    st.one_of(scalars, arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(keys, max_size=3),
        st.frozensets(keys, max_size=3),
    ),
    max_leaves=12,
)


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def load_bytes(folder, data):
    path = folder / "x.pkl"
    path.write_bytes(data)
    return safe_pickle_load(path)


@settings(max_examples=150, deadline=None)
@given(value=values, protocol=st.integers(0, 5))
def test_plain_values_and_arrays_come_back_exactly(tmp_path_factory, value, protocol):
    data = pickle.dumps(value, protocol=protocol)
    assert_same(load_bytes(tmp_path_factory.getbasetemp(), data), pickle.loads(data))


@pytest.mark.parametrize("protocol", range(6))
def test_shared_values_numpy_scalars_objects_and_orders(tmp_path, protocol):
    shared = np.arange(6.0).reshape(2, 3)
    value = {
        "shared": [shared, shared],
        "scalars": (np.float32(2.5), np.int64(-3), np.bool_(True), np.str_("é"), np.array(1.5)),
        "objects": np.array(["a", None, [1, 2]], object),
        "fortran": np.asfortranarray(shared),
        "big-endian": np.arange(3, dtype=">i2"),
        "bytearray": bytearray(b"\x00\xff"),
        "long": -(10**40),
    }
    loaded = load_bytes(tmp_path, pickle.dumps(value, protocol=protocol))
    assert loaded["shared"][0] is loaded["shared"][1]
    assert loaded["objects"].tolist() == ["a", None, [1, 2]]
    assert loaded["big-endian"].tolist() == [0, 1, 2]
    assert loaded["fortran"].flags.f_contiguous
    assert [float(scalar) for scalar in loaded["scalars"][:3]] == [2.5, -3, 1] and loaded["scalars"][3] == "é"
    assert loaded["bytearray"] == value["bytearray"] and loaded["long"] == value["long"]
    np.testing.assert_array_equal(loaded["fortran"], shared)


def test_an_ordered_dict_becomes_a_dict(tmp_path):
    assert_same(load_bytes(tmp_path, pickle.dumps(OrderedDict(b=1, a=2))), {"b": 1, "a": 2})


@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_arrays_of_old_and_new_numpy(tmp_path, module):
    data = (
        pickle.dumps({"x": np.arange(4.0)}, protocol=2).replace(b"numpy._core", module).replace(b"numpy.core", module)
    )
    assert module + b".multiarray" in data
    np.testing.assert_array_equal(load_bytes(tmp_path, data)["x"], np.arange(4.0))


def test_a_pickle_of_python_2(tmp_path):
    # What Python 2.7 and NumPy 1.16 wrote for {"word": "caf\xe9", "x": np.array([1., 2.], "f4"), "n": 5L}.
    raw = np.array([1, 2], "<f4").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01K\x02\x85"
        b"cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tb"
    )
    data = b"\x80\x02}q\x00(U\x04wordU\x04caf\xe9U\x01x" + array + b"U\x01n\x8a\x01\x05u."
    loaded = load_bytes(tmp_path, data)
    assert loaded["word"] == "café" and loaded["n"] == 5
    assert loaded["x"].tolist() == [1.0, 2.0] and loaded["x"].dtype == np.float32
    assert load_bytes(tmp_path, b"(dp0\nS'a\\n'\np1\nI01\nsS'b'\nL7L\nsS'c'\nF1.5\ns.") == {
        "a\n": True,
        "b": 7,
        "c": 1.5,
    }


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_executed_and_the_refused_global_is_named(tmp_path, protocol):
    target = tmp_path / "executed"
    data = pickle.dumps([np.arange(3), Payload(str(target))], protocol=protocol)
    with pytest.raises(DataError, match=r"x\.pkl: .*(posix|nt)\.mkdir.* refused"):
        load_bytes(tmp_path, data)
    assert not target.exists()
    pickle.loads(data)
    assert target.exists()  # the payload was a real one


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'true'\no.", "os.system"),
        (b"\x80\x02ccollections\nCounter\n)\x81.", "collections.Counter"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "numpy.load"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n.", "torch._utils._rebuild_tensor_v2"),
    ],
)
def test_refused_globals(tmp_path, data, name):
    with pytest.raises(DataError, match=f"asks for {name}, which is refused"):
        load_bytes(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P1\n.", "PERSID is not allowed"),
        (b"\x80\x02N.", None),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x02\x82\x01.", "EXT1 is not allowed"),
        (b"\x80\x05\x97.", "NEXT_BUFFER is not allowed"),
        (b"cnumpy\nndarray\n.", "numpy.ndarray itself"),
        (b"(cnumpy\nndarray\nl.", "numpy.ndarray itself"),
        (b"cnumpy\nndarray\n(K\x05tR.", "not a function"),
        (b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR.", "DType itself"),
        (b"cnumpy\ndtype\n(S'f4,(9)i8'\nI0\nI1\ntR.", "not of numbers"),
        (b"N)b.", "state of a NoneType"),
        (b"K\x01K\x02a.", "appended to a int"),
        (b"}(K\x01K\x02K\x03u.", "into a dict"),
        (b"}(]K\x02u.", "a list is in a set or a key"),
        (b"}()K\x01u.", "a tuple is in a set or a key"),
        (b"]q\x00h\x00a.", "contains itself"),
        (b"", "file is empty"),
        (b"K", "ends too early"),
        (b"S'abc.", "ends too early"),
        (b"hello world", "not a readable pickle"),
    ],
)
def test_malformed_pickles_say_what_is_wrong(tmp_path, data, message):
    if message is None:
        assert load_bytes(tmp_path, data) is None
        return
    with pytest.raises(DataError, match=message) as caught:
        load_bytes(tmp_path, data)
    assert "\n" not in str(caught.value) and "x.pkl" in str(caught.value)


def array_of(shape, dtype=b"f8", data=b"B\x00\x00\x00\x00"):
    """The pickle of an array that claims `shape` and holds `data`."""
    dimensions = b"".join(b"\x8a\x08" + struct.pack("<q", size) for size in shape)
    return (
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tS'b'\ntR(K\x01(" + dimensions + b"t"
        b"cnumpy\ndtype\n(S'" + dtype + b"'\nI0\nI1\ntR(K\x03S'<'\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + data + b"tb"
    )


HUGE = 10**11
BOMBS = {
    "array": array_of([HUGE]) + b".",
    "array of objects": array_of([HUGE], b"O", b"]") + b".",
    "empty array with a huge axis that overflows": array_of([2**62, 2**62]) + b".",
    "endless rows of nothing": array_of([HUGE, 0]) + b".",
    "endless empty strings": array_of([HUGE], b"S0") + b".",
    "string item size": b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(S'S100000000000'\nI0\nI1\ntRC\x00tR.",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"abc.",
    "bytes of 4 GB": b"\x80\x04B\xff\xff\xff\xffabc.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"abc.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", HUGE) + b"abc.",
    "integer": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "integer in text": b"L" + b"9" * 100_000 + b"L\n.",
    "nested tuples": b")" + b"\x85" * 100_000 + b".",
    "nested lists": b"]" * 100_000 + b"a" * 99_999 + b".",
    "nested tuple as a key": b"})" + b"\x85" * 200_000 + b"K\x00s.",
    "deep by sharing": b"]q\x00" + b"".join(b"]q%ch%ca" % (i, i - 1) for i in range(1, 200)) + b".",
    "laughs that copy": b"C\xff" + b"x" * 255 + b"q\x000(" + b"cbuiltins\nbytearray\n(h\x00tR" * 500 + b"l.",
    "arrays that share bytes": b"B\x40\x1f\x00\x00"
    + b"x" * 8000
    + b"q\x000("
    + array_of([1000], b"f8", b"h\x00") * 500
    + b"l.",
    "keys that collide": b"}(" + b"".join(b"L%dL\nN" % (i * (2**61 - 1)) for i in range(1, 2000)) + b"u.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_claim_is_refused_before_it_costs_memory(tmp_path, name):
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            load_bytes(tmp_path, BOMBS[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * len(BOMBS[name]) + 2_000_000


def dumped_often(value, levels=10, references=10):
    """A pickle that holds a value once and refers to it 10 billion times."""
    for _ in range(levels):
        value = [value] * references
    return pickle.dumps(value)


SHARED_TOO_OFTEN = {
    "numbers": dumped_often(0.5),
    "empty tuples": dumped_often(()),
    "in a dict and a tuple": dumped_often({"words": ("a",)}),
    "in an array of objects": dumped_often(np.array([None, 1], object)),
    "a long text": pickle.dumps(["x" * 10_000] * 20_000),
    "an array": pickle.dumps([np.zeros((100, 100))] * 5_000),
}


@pytest.mark.parametrize("name", SHARED_TOO_OFTEN)
def test_values_that_are_shared_too_often_are_refused(tmp_path, name):
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"x\.pkl: .* refers to the same values so often .* save each value once"):
            load_bytes(tmp_path, SHARED_TOO_OFTEN[name])
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_samples_may_share_what_they_lack(tmp_path):
    silence = np.zeros((50, 74), "f4")
    words = [f"word{index}" for index in range(20)]
    data = [((words, silence, silence), 0.5, f"v_{index}") for index in range(2_000)]
    loaded = load_bytes(tmp_path, pickle.dumps({"train": data}))
    assert loaded["train"][0][0][1] is loaded["train"][-1][0][2]
    assert_same(load_bytes(tmp_path, pickle.dumps([[0] * 74] * 1_000)), [[0] * 74] * 1_000)


def test_a_huge_memo_index_costs_nothing(tmp_path):
    tracemalloc.start()
    try:
        assert load_bytes(tmp_path, b"K\x05r\xff\xff\xff\xff.") == 5
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_an_array_of_strings_with_impossible_characters_is_refused(tmp_path):
    data = pickle.dumps(np.array(["ab"]), protocol=4).replace("b".encode("utf-32-le"), b"\xff\xff\xff\xff")
    with pytest.raises(DataError, match="not a character"):
        load_bytes(tmp_path, data)


def test_every_cut_of_a_pickle_is_an_error(tmp_path, mag_data):
    data = pickle.dumps(mag_data((2, 1, 1)), protocol=4)
    for length in range(1, len(data), 13):
        with pytest.raises(DataError):
            load_bytes(tmp_path, data[:length])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"", "empty"),
    ],
)
def test_files_saved_in_place_of_data(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        load_bytes(tmp_path, content)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        safe_pickle_load(tmp_path / "absent.pkl")

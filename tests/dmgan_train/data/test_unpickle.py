import builtins
import contextlib
import os
import pickle
import subprocess
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.errors import DataError
from dmgan_train.data.unpickle import load_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def reload(tmp_path, content: bytes) -> object:
    path = tmp_path / "file.pickle"
    path.write_bytes(content)
    return load_pickle(path)


@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_back_as_it_was(tmp_path_factory, value, protocol):
    assert reload(tmp_path_factory.getbasetemp(), pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_values_come_back_as_they_were(tmp_path, protocol):
    values = [
        *(np.int64(-5), np.float32(0.5), np.bool_(True), np.str_("bird")),
        *(
            np.arange(6, dtype=">i2").reshape(2, 3),
            np.asfortranarray(np.eye(3)),
            np.array(["a", "bcd"]),
            np.zeros((0, 4)),
        ),
    ]
    for value, loaded in zip(values, reload(tmp_path, pickle.dumps(values, protocol)), strict=True):
        np.testing.assert_array_equal(loaded, value)
        assert np.asarray(loaded).dtype.newbyteorder("=") == value.dtype.newbyteorder("=")


def test_python_2_wrote_bytes_as_text(tmp_path):
    scalar = (
        b"(lp0\ncnumpy.core.multiarray\nscalar\np1\n(cnumpy\ndtype\np2\n(S'i8'\np3\nI0\nI1\ntp4\nRp5\n"
        b"(I3\nS'<'\np6\nNNNI-1\nI-1\nI0\ntp7\nbS'\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00'\np8\ntp9\nRp10\nag10\na."
    )
    assert reload(tmp_path, scalar) == [258, 258]
    assert reload(tmp_path, b"(lp0\nS'caf\\xe9'\np1\na.") == ["caf\xe9"]
    assert reload(tmp_path, b"c__builtin__\nset\n((lp0\nI1\naI2\natR.") == {1, 2}


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch MARK",), r"(posix|nt)\.system"),
        (subprocess.check_call, (["touch", "MARK"],), "check_call"),
        (builtins.eval, ("open('MARK', 'w')",), r"(builtins|__builtin__)\.eval"),
        (builtins.exec, ("open('MARK', 'w')",), r"(builtins|__builtin__)\.exec"),
        (builtins.getattr, ("", "join"), r"(builtins|__builtin__)\.getattr"),
        (builtins.open, ("MARK", "w"), r"open"),
        (np.load, ("MARK",), r"numpy\.load"),
    ],
)
def test_a_call_of_anything_else_is_refused_by_name_and_not_made(
    tmp_path, monkeypatch, protocol, function, arguments, name
):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(["harmless", Calls(function, *arguments)], protocol)
    with pytest.raises(DataError, match=rf"file\.pickle: this pickle names .*{name}"):
        reload(tmp_path, content)
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps(list(range(1000)))[:-20],
        b"cnumpy\ndtype\n(S'O8'\ntR.",  # objects
        b"cnumpy\ndtype\n(S'i4,O'\ntR.",  # a record with objects in it
        b"cnumpy\ndtype\n(I5\ntR.",
        b"cnumpy\ndtype\n(dS'a'\nI1\nsb.",  # changes the function behind a name
        b"cnumpy.core.multiarray\nscalar\n(I1\nS'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\ntRS'x'\ntR.",  # fewer bytes than the type has
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I9\nI9\ntcnumpy\ndtype\n(S'i8'\ntRI0\nS'x'\ntb.",
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I1\ntNI0\n]tb.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"P1\n.",
        b"\x82\x01.",
        b"ios\nsystem\n(S'true'\n.",
    ],
)
def test_a_damaged_or_crafted_pickle_is_an_error(tmp_path, content):
    with pytest.raises(DataError, match=r"(?s)file\.pickle: .*fetch the file again"):
        reload(tmp_path, content)


DOUBLED = b"q\x00h\x00"  # remembers the top of the stack and puts it there once more
TUPLES = b"K\x01" + (DOUBLED + b"\x86") * 60
TEXT = b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"K\x01r\xff\xff\xff\x0f.",  # ten bytes that number what they remember far too high
        b"\x80\x05\x96\xff\xff\xff\xff\x01\0\0\0.",  # a bytearray of 8 GB that is not there
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame that is as long as numbers go
        b"\x80\x04\x8f(" + TUPLES + b"\x90.",  # tuples in tuples, in a set
        b"\x80\x04(" + TUPLES + b"\x91.",  # in a frozen set
        b"\x80\x04}" + TUPLES + b"K\x01s.",  # as a key
        b"\x80\x04}(" + TUPLES + b"K\x01u.",
        b"\x80\x04(" + TUPLES + b"K\x01d.",
        b"\x80\x02c__builtin__\nset\n]" + TUPLES + b"a\x85R.",
        b"\x80\x02c_codecs\nencode\n" + TUPLES + b"K\x01\x86R.",  # in a message
        b"\x80\x02(" + TEXT + b"q\x05" + b"c_codecs\nencode\nh\x05X\x06\0\0\0latin1\x86R" * 5_000 + b"l.",
        b"\x80\x02c__builtin__\nset\n" + TEXT + b"R.",
        b"\x80\x04\x8c\x01a" + b"\x85" * 100_000 + b"b.",  # deep
    ],
)
def test_a_few_bytes_take_neither_all_memory_nor_for_ever(tmp_path, content):
    """It ends."""
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            reload(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def test_a_large_file_is_read(tmp_path):
    """As many indices as COCO's captions.pickle has in a tenth of its captions."""
    captions = [[word % 30_000 for word in range(start, start + 10)] for start in range(60_000)]
    assert reload(tmp_path, pickle.dumps(captions, 2)) == captions


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        load_pickle(tmp_path / "none.pickle")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_cut_anywhere_is_an_error(tmp_path, protocol):
    content = pickle.dumps({"names": ["a", "b"], "classes": [np.int64(1), np.arange(3)]}, protocol)
    for length in range(0, len(content), 5):
        with pytest.raises(DataError, match=r"file\.pickle"):
            reload(tmp_path, content[:length])

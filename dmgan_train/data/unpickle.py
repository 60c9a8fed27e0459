"""Reads pickles of plain data, Python 2's too, without ever running what is in them.

The published data sets come as pickles. A pickle is a program: it may name any function and call it. The reader
here knows a handful of names, those that numpy writes for numbers and arrays, and puts a harmless function of its
own behind each. Any other name is an error before anything is called. It is Python's own unpickler in Python, not the
faster one in C: that one makes room for whatever number a pickle gives a thing it remembers, and for any length that
it announces, so that ten bytes could fill the memory.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

from dmgan_runtime.errors import DataError, shortened
from dmgan_train.data.files import read_bytes

_PLAIN_TYPE = re.compile(r"[<>=|]?[biufSU]\d{1,6}")  # numbers and text; no objects, no records


class _Known:
    """A callable that a pickle may name. It has no attributes for a pickle to overwrite."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("it tries to change a function")


class _Dtype:
    """Stands for numpy.dtype, whose own `__setstate__` trusts sizes and flags that a pickle gives it."""

    __slots__ = ("plain",)

    def __init__(self, code: str) -> None:
        if not _PLAIN_TYPE.fullmatch(code):
            raise pickle.UnpicklingError(
                f"it holds values of type {shortened(code)!r}, which are neither numbers nor text"
            )
        self.plain: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.plain = self.plain.newbyteorder(state[1])


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """Stands for numpy.ndarray, so that its state is checked before numpy sees it."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, data = state
        super().__setstate__((1, shape, _plain(dtype), fortran_order, _bytes(data)))


def _plain(dtype: object) -> np.dtype[Any]:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("it holds an array without a type of its own")
    return dtype.plain


def _bytes(data: object) -> bytes:
    # Python 2 wrote bytes as text, which encoding="latin1" maps to the same numbers.
    if isinstance(data, str):
        return data.encode("latin1")
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise pickle.UnpicklingError("it holds an array without bytes")


def _make_dtype(code: str, *_flags: object) -> _Dtype:
    return _Dtype(code)


def _make_scalar(dtype: object, data: object) -> np.generic:
    scalar: np.generic = np.frombuffer(_bytes(data), _plain(dtype), count=1)[0]
    return scalar


def _make_array(*_arguments: object) -> _Array:
    return _Array(0)


def _array_from_buffer(data: object, dtype: object, shape: tuple[int, ...], order: Any) -> _Array:
    return np.frombuffer(_bytes(data), _plain(dtype)).reshape(shape, order=order).view(_Array)


def _make_bytes() -> bytes:
    return b""  # protocols 0 to 2 write empty bytes as a call; others come through _encode


def _make_set(items: Iterable[object] = ()) -> set[object]:
    members = list(items)
    _expect_plain(members)
    return set(members)


def _expect_plain(values: Iterable[object]) -> None:
    """Refuses keys and members that are no plain values: tuples in tuples may take for ever to be compared."""
    for value in values:
        if not isinstance(value, str | bytes | int | float | np.generic | None):
            raise pickle.UnpicklingError(f"it has a {type(value).__name__} as a key, where numbers and text are")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError("it encodes text in another way than pickles of bytes do")
    return text.encode("latin1")


_NUMPY_FUNCTIONS: dict[str, Callable[..., object]] = {
    "multiarray.scalar": _make_scalar,
    "multiarray._reconstruct": _make_array,
    "numeric._frombuffer": _array_from_buffer,
}
_KNOWN = {
    "numpy.dtype": _Known(_make_dtype),
    "numpy.ndarray": _Known(_make_array),
    "_codecs.encode": _Known(_encode),
    "__builtin__.bytes": _Known(_make_bytes),
    "__builtin__.set": _Known(_make_set),
    "builtins.set": _Known(_make_set),
    **{
        f"numpy.{core}.{name}": _Known(function)
        for core in ("core", "_core")  # before and after numpy 2
        for name, function in _NUMPY_FUNCTIONS.items()
    },
}


class _ForbiddenName(Exception):  # noqa: N818
    """Raised inside the unpickler only; pickle has no other way out."""


_InPython: Any = pickle._Unpickler
_REFUSED = frozenset(
    b"".join(
        (
            *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),  # make objects
            *(pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4),  # name what is not in the file
            *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
        )
    )
)


class _PlainUnpickler(_InPython):  # type: ignore[misc] # its methods have no types
    """Python's unpickler without the doors to other code, and with room for what is in the file and no more."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._room = 4096 + 4 * len(content)

    def find_class(self, module: str, name: str) -> _Known:
        try:
            return _KNOWN[f"{module}.{name}"]
        except KeyError:
            raise _ForbiddenName(f"{module}.{name}") from None

    def _copy(self, values: object) -> None:
        """Counts what a call will copy: a text that is remembered could be copied again and again."""
        if not isinstance(values, tuple):
            raise pickle.UnpicklingError("it makes a call without arguments")
        self._room -= sum(len(value) for value in values if isinstance(value, Sized))
        if self._room < 0:
            raise pickle.UnpicklingError("it copies its data again and again")

    def load_reduce(self) -> None:
        self._copy(self.stack[-1])
        super().load_reduce()

    def load_build(self) -> None:
        self._copy(self.stack[-1])
        super().load_build()

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def load_dict(self) -> None:
        _expect_plain(self.stack[::2])
        super().load_dict()

    def load_setitem(self) -> None:
        _expect_plain(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _expect_plain(self.stack[::2])
        super().load_setitems()

    def load_additems(self) -> None:
        _expect_plain(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _expect_plain(self.stack)
        super().load_frozenset()

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: load for code, load in _InPython.dispatch.items() if code not in _REFUSED
    } | {
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }


def load_pickle(path: Path) -> object:
    """Reads a pickle of plain containers, strings, numbers, and numpy scalars and arrays of them.

    Python 2's byte strings become str (as Latin-1). Nothing in the file is imported or run.

    Args:
        path: A pickle of any protocol.

    Returns:
        What it holds. Numpy values are numpy scalars and arrays.

    Raises:
        DataError: if the file is missing, is damaged, or names anything but plain data.
    """
    content = read_bytes(path)
    try:
        return _PlainUnpickler(content).load()
    except _ForbiddenName as error:
        raise DataError(
            f"{path}: this pickle names {error}, which is not plain data, so it was not read;"
            " fetch the file again from its source"
        ) from None
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise _unreadable(path, error) from error
    except (ValueError, ArithmeticError, MemoryError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as a pickle ({shortened(error)}); fetch the file again from its source")

"""Reads pickles of plain data, Python 2's too, without ever running what is in them.

The published data sets come as pickles. A pickle is a program: it may name any function and call it. The reader
here knows a handful of names, those that numpy writes for numbers and arrays, and puts a harmless function of its
own behind each. Any other name is an error before anything is called.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dmgan_runtime.errors import DataError

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
            raise pickle.UnpicklingError(f"it holds values of type {code!r}, which are neither numbers nor text")
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
    return set(items)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
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


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Known:
        try:
            return _KNOWN[f"{module}.{name}"]
        except KeyError:
            raise _ForbiddenName(f"{module}.{name}") from None


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
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except _ForbiddenName as error:
        raise DataError(
            f"{path}: this pickle names {error}, which is not plain data, so it was not read;"
            " fetch the file again from its source"
        ) from None
    except (pickle.UnpicklingError, OSError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error
    except (ValueError, ArithmeticError, MemoryError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as a pickle ({error}); fetch the file again from its source")

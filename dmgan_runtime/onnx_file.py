"""Whether an ONNX file is whole: an engine that is given one may go and read others that it names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dmgan_runtime.errors import EngineError

# The messages of onnx.proto that can hold a tensor, each with the fields that lead to one.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor"},
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 100
_VARINT_BYTES = 10
_MAX_KEY = 2**32 - 1  # some readers drop the bits above, and would take it for another field


class _Field(NamedTuple):
    number: int
    value: int
    """Of a number; of bytes, where they start."""
    end: int | None
    """Of bytes, where they end; None for a number."""


def check_self_contained(content: bytes, where: str) -> None:
    """Refuses an ONNX file that keeps weights elsewhere: no hash vouches for those, and a path may lead anywhere.

    Not every engine can be told to refuse: OpenVINO 2026.4 reads them from the working directory. Weights inside are
    skipped, so this takes no time that could be noticed.

    Args:
        content: The file.
        where: Names it in messages.

    Raises:
        EngineError: if it names external data, or is no protocol buffer, which no engine would load either.
    """
    try:
        _check(content, 0, len(content), "model", 0, where)
    except (IndexError, ValueError) as error:
        raise EngineError(
            f"{where}: cannot be loaded, because it is not an ONNX file ({error}); export the bundle again"
        ) from error


def _check(content: bytes, start: int, end: int, message: str, depth: int, where: str) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested over {_MAX_DEPTH} deep")
    children = _CHILDREN[message]
    for field in _fields(content, start, end):
        external = field.number == _EXTERNAL_DATA or (field.number == _DATA_LOCATION and field.value != 0)
        if message == "tensor" and external:
            raise EngineError(
                f"{where}: keeps weights in another file; export the bundle again, with all weights inside"
            )
        if field.end is not None and field.number in children:
            _check(content, field.value, field.end, children[field.number], depth + 1, where)


def _fields(content: bytes, start: int, end: int) -> Iterator[_Field]:
    """The fields of a protocol buffer's message, between two positions."""
    position = start
    while position < end:
        key, position = _varint(content, position)
        number, kind = key >> 3, key & 7
        if key > _MAX_KEY:
            raise ValueError("a field's number is too large")
        if kind == _VARINT:
            value, position = _varint(content, position)
            yield _Field(number, value, None)
        elif kind == _BYTES:
            length, position = _varint(content, position)
            yield _Field(number, position, position + length)
            position += length
        elif kind in (_FIXED32, _FIXED64):
            position += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"it has a field of the kind {kind}")
    if position != end:
        raise ValueError("a field ends beyond its message")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number, and the position after it."""
    value = 0
    for place in range(_VARINT_BYTES):
        byte = content[position + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position + place + 1
    raise ValueError("a number does not end")

"""Whether an ONNX file is one that `dmgan-export` may have written; asked before an engine sees it.

An engine does what a file says: some operators loop for ever or make tensors of any size, and weights may be kept in
other files that it goes and reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dmgan_runtime.errors import EngineError

_NAMES = (
    "Add Cast Clip Concat Conv ConvTranspose DepthToSpace DequantizeLinear Div Exp Gather Gemm LSTM Less MatMul Mul Not"
    " Pad QuantizeLinear ReduceMean Relu Reshape Sigmoid Softmax Split Squeeze Sub Tanh Transpose Unsqueeze Where"
)
OPERATORS = frozenset(_NAMES.split())
"""All operators of all graphs that `dmgan-export` writes."""

# The messages of onnx.proto that an exported file has, each with the fields that lead to others.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {},
    "tensor": {},
}
_OP_TYPE, _DOMAIN = 4, 7
# Further fields that hold graphs or tensors: training and functions of a model, sparse tensors, attributes.
_STRANGE: dict[str, tuple[int, ...]] = {"model": (20, 25), "graph": (15,), "attribute": (5, 6, 10, 11, 22, 23)}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10
# Where it stands, ONNX Runtime reads the file as one of its own format, in which nothing here would be looked at.
_ORT_FORMAT, _ORT_FORMAT_PLACE = b"ORTM", 4
_MAX_KEY = 2**32 - 1  # some readers drop the bits above, and would take it for another field
_SHOWN = 40


class _Field(NamedTuple):
    number: int
    value: int
    """Of a number; of bytes, where they start."""
    end: int | None
    """Of bytes, where they end; None for a number."""


def check_onnx_file(content: bytes, where: str) -> None:
    """Refuses an ONNX file that keeps weights elsewhere, or has operators or parts that no exported one has.

    No hash vouches for weights elsewhere, and a path may lead anywhere; not every engine can be told to refuse them:
    OpenVINO 2026.4 reads them from the working directory. Weights inside are skipped, so this takes no time that could
    be noticed.

    Args:
        content: The file.
        where: Names it in messages.

    Raises:
        EngineError: if it is such a file, or is no protocol buffer, which no engine would load either.
    """
    try:
        if content.startswith(_ORT_FORMAT, _ORT_FORMAT_PLACE):
            raise ValueError("it says that it is one of ONNX Runtime's own format")
        _check(content, 0, len(content), "model", where)
    except (IndexError, ValueError) as error:
        raise EngineError(
            f"{where}: cannot be loaded, because it is not an ONNX file ({error}); export the bundle again"
        ) from error


def _check(content: bytes, start: int, end: int, message: str, where: str) -> None:
    for field in _fields(content, start, end):
        number = field.number
        if message == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and field.value != 0)):
            raise EngineError(
                f"{where}: keeps weights in another file; export the bundle again, with all weights inside"
            )
        if number in _STRANGE.get(message, ()):
            raise _strange(where, "graphs or tensors in a place")
        if field.end is None:
            continue
        if message == "node" and number in (_OP_TYPE, _DOMAIN):
            name = content[field.value : field.end].decode(errors="replace")
            if name not in OPERATORS if number == _OP_TYPE else name:
                raise _strange(where, f"the {'operator' if number == _OP_TYPE else 'domain'} {name[:_SHOWN]!r},")
        if number in _CHILDREN[message]:
            _check(content, field.value, field.end, _CHILDREN[message][number], where)


def _strange(where: str, what: str) -> EngineError:
    return EngineError(
        f"{where}: has {what} that no graph by dmgan-export has, so no engine is given it; export the bundle again with"
        " this version of dmgan"
    )


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

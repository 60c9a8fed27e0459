"""Reading versioned JSON: strictly what this version knows, and of a newer minor version what this one knows of it."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from dmgan_runtime.errors import BundleError

_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})", re.ASCII)
_Schema = TypeVar("_Schema", bound=msgspec.Struct)


class _Version(msgspec.Struct):
    schema_version: str = "missing"


def read_versioned(
    content: bytes, schema: type[_Schema], version: str, *, what: str, source: str, remedy: str
) -> _Schema:
    """Decodes JSON that has a `schema_version` of the form `major.minor`.

    Args:
        content: The JSON text.
        schema: What it must hold; unknown keys are refused.
        version: The schema's. A higher minor version may have more keys, which are left out.
        what: The kind of file, for messages.
        source: Where it came from, for messages.
        remedy: What to do about a file that is not valid.

    Raises:
        BundleError: if it is not JSON, is of another major version, or breaks the schema.
    """
    try:
        found = msgspec.json.decode(content, type=_Version).schema_version
        newer = _is_newer(found, version)
        if newer is None:
            raise BundleError(
                f"{source}: schema version {found}, and this dmgan reads {version}; upgrade dmgan or {remedy}"
            )
        if not newer:
            return msgspec.json.decode(content, type=schema)
    except msgspec.ValidationError as error:
        raise BundleError(f"{source}: not a valid {what} ({error}); {remedy}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{source}: not a valid {what} ({error}); copy the bundle again from where it came, or {remedy}"
        ) from error
    try:
        known = _known_part(msgspec.json.decode(content), inspect.type_info(schema))
        return msgspec.convert(known, schema, str_keys=True)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BundleError(
            f"{source}: schema version {found} is newer than {version}, which this dmgan reads, and it cannot make do"
            f" with what it knows of it ({error}); upgrade dmgan"
        ) from error


def _is_newer(found: str, version: str) -> bool | None:
    """Whether a minor version is higher than ours; None if the major version is another."""
    numbers = _VERSION.fullmatch(found)
    major, minor = map(int, version.split("."))
    if numbers is None or int(numbers[1]) != major:
        return None
    return int(numbers[2]) > minor


def _known_part(value: Any, kind: inspect.Type) -> Any:
    """A decoded value without the keys that its schema lacks."""
    if isinstance(kind, inspect.UnionType):
        kind = next((each for each in kind.types if isinstance(each, inspect.StructType)), kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        return {name: _known_part(inner, fields[name]) for name, inner in value.items() if name in fields}
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        return [_known_part(inner, kind.item_type) for inner in value]
    return value

"""Tables of pictures as people write them: JSON lines, CSV and Parquet, line by line as plain values."""

from __future__ import annotations

import ast
import csv
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from dmgan_runtime.errors import DataError, shortened
from dmgan_train.data.files import read_text, refuse_pointer

Line = tuple[str, Mapping[str, Any]]
"""Where a line stands, and its fields."""

_DELIMITERS = ",;\t"
_SEPARATOR_LINE = re.compile(r"sep=(\t|[^\w\s\"])\r?\n", re.IGNORECASE)
_MOST_ROWS = 20_000_000
_ROWS_AT_ONCE = 1024
_LONGEST_LIST = 100_000


def read_json_lines(path: Path) -> Iterator[Line]:
    """Reads a file of one JSON object a line.

    Raises:
        DataError: naming the first line that is none.
    """
    decoder = msgspec.json.Decoder(dict[str, Any])
    # Bytes are split at line breaks alone; text would be at what captions may hold, such as U+2028.
    for number, line in enumerate(read_text(path).encode().splitlines(), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, decoder.decode(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: {error}; each line is an object with file_name and captions") from error


def read_csv(path: Path) -> Iterator[Line]:
    """Reads a table with a header, separated by commas, semicolons or tabs; an empty cell is None.

    A first line such as `sep=;`, which Excel takes, names another separator.

    Raises:
        DataError: naming the first row that is broken, or has more cells than the header.
    """
    text = read_text(path)
    told = _SEPARATOR_LINE.match(text)
    skipped = 1 if told else 0
    text = text[told.end() :] if told else text
    header = text.partition("\n")[0]
    delimiter = told[1] if told else max(_DELIMITERS, key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    number = 1 + skipped
    try:
        names = [name.strip() for name in next(rows, [])]
        for cells in rows:
            where, number = f"{path}, line {number + 1}", rows.line_num + skipped
            if len(cells) > len(names):
                raise DataError(
                    f"{where}: has {len(cells)} cells, and the header has {len(names)}; put quotes around captions that"
                    f" hold {delimiter!r}"
                )
            if any(cells):
                yield where, dict(zip(names, map(_value, cells), strict=False))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num + skipped}: {error}; mend or remove that line") from error


def _value(cell: str) -> object:
    """A cell's text; the list that pandas writes as `['one', 'two']`; None if it is empty."""
    if cell.startswith("[") and cell.endswith("]") and len(cell) < _LONGEST_LIST:
        with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            found = ast.literal_eval(cell)
            if all(isinstance(text, str) for text in found):
                return found
    return cell or None


def read_parquet(path: Path) -> Iterator[Line]:
    """Reads a Parquet file, a part at a time, through pyarrow.

    Raises:
        DataError: if pyarrow is not installed, the file is damaged, or it has over 20 million rows.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise DataError(
            f'{path}: Parquet is read by pyarrow, which is not installed; pip install "dmgan[parquet]", or write'
            " metadata.jsonl or metadata.csv"
        ) from error
    try:
        with path.open("rb") as stream:
            refuse_pointer(path, stream.read(64))
        with parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > _MOST_ROWS:
                raise DataError(f"{path}: has {file.metadata.num_rows:,} rows, over {_MOST_ROWS:,}")
            number = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({shortened(error)})") from error

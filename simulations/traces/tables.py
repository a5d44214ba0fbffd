"""From bytes to columns of text: CSV files, gzipped or not, read in blocks, refused in one sentence.

Only the shape of a file is judged here (it exists, it is UTF-8, every row has as many fields as the
header, the gzip is whole). What one column may hold is judged by `columns.py`; what the columns mean
together is known by `records.py`. Everything is read in blocks of `BLOCK_ROWS` rows, so that the
text of a large trace is never in memory at once.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from itertools import chain, islice
from typing import IO, Any, cast

from autoscaler.input_error import InputError

BLOCK_ROWS = 100_000
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A file and the name that the user knows it by."""

    shown: str
    at: Traversable

    def refusal(
        self, problem: str, hint: str, *, line: int | None = None, field: str | None = None, value: object = None
    ) -> InputError:
        """Return an error that names this file and, where given, the place in it."""
        return InputError(self.shown, line, field, value, problem, hint)


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a table: their line numbers and their fields as text, by column name."""

    file: TraceFile
    lines: tuple[int, ...]
    columns: dict[str, tuple[str, ...]]

    def refusal(self, row: int, field: str, problem: str, hint: str) -> InputError:
        """Return an error that points at one field of one row (counted from 0 within the block)."""
        value = self.columns[field][row]
        return self.file.refusal(problem, hint, line=self.lines[row], field=field, value=value)


def read_table(file: TraceFile) -> tuple[tuple[str, ...], Iterator[Block]]:
    """Return the header, and the blocks of rows below it.

    Raises InputError at once for a file without a header, and from the iterator for one without rows
    or with a row that is wrong.
    """
    rows = _rows(file)
    first = next(rows, None)
    if first is None:
        raise file.refusal("the file is empty", "give a CSV file with a header and at least one row")
    header = tuple(name.strip() for name in first[1])
    return header, _blocks(file, header, rows)


def _rows(file: TraceFile) -> Iterator[tuple[int, list[str]]]:
    with reading(file) as stream:
        reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
        for row in reader:
            if row:
                yield reader.line_num, row


def _blocks(file: TraceFile, header: tuple[str, ...], rows: Iterator[tuple[int, list[str]]]) -> Iterator[Block]:
    first = next(rows, None)
    if first is None:
        raise file.refusal("there is a header but no row", "give at least one row below the header", line=1)
    rows = chain((first,), rows)
    while block := list(islice(rows, BLOCK_ROWS)):
        for line, row in block:
            if len(row) != len(header):
                problem = f"the row has {len(row)} fields where the header has {len(header)}"
                hint = f"give {', '.join(header)} in every row"
                raise file.refusal(problem, hint, line=line, value=",".join(row))
        lines, fields = zip(*block, strict=True)
        yield Block(file, lines, dict(zip(header, zip(*fields, strict=True), strict=True)))


def read_json(file: TraceFile) -> Any:
    """Return the parsed JSON of a file, gzipped or not; InputError where it cannot be read as that."""
    with reading(file) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig").read()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise file.refusal(f"the file is not JSON ({error.msg})", "save it as JSON", line=error.lineno) from error


@contextmanager
def reading(file: TraceFile) -> Iterator[IO[bytes]]:
    """Return the file's bytes, unpacked where they are gzip; every way of failing becomes an InputError."""
    try:
        with file.at.open("rb") as raw:
            # Told by the first bytes and not by the name: a renamed file still opens.
            packed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            raw.seek(0)
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
    except FileNotFoundError as error:
        raise file.refusal("there is no such file", "give the path of a file that exists") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise file.refusal("the gzip data is cut short or damaged", "fetch or compress the file again") from error
    except UnicodeDecodeError as error:
        raise file.refusal("the file is not UTF-8 text", "save it as UTF-8") from error
    except csv.Error as error:
        raise file.refusal(f"the file is not CSV ({error})", "save it as comma-separated text") from error
    except OSError as error:
        raise file.refusal(f"the file cannot be read ({error.strerror})", "give a readable file") from error

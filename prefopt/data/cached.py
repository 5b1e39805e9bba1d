"""Tokenised rows on disk: written once, read a few at a time, found again by what they follow from."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from filelock import FileLock

from prefopt.data.encoding import SCHEMA, DamagedRowError, Decoder, encode
from prefopt.data.identity import rows_key
from prefopt.data.load import RowStream
from prefopt.data.report import DataReport
from prefopt.data.row import Row
from prefopt.data.sources import Source, is_stream, source_digest, source_name
from prefopt.data.views import RowView
from prefopt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH_ROWS = 256  # what one read takes from disk
_BATCHES_HELD = 4
_ROWS, _LISTING, _ABOUT, _PARTIAL = "rows.arrow", "listing.jsonl", "about.json", ".partial"
_ABANDONED_SECONDS = 24 * 3600


def rows_folder() -> Path:
    """Where tokenised rows are kept unless `data.cache_dir` says otherwise: `$XDG_CACHE_HOME/prefopt/rows`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefopt" / "rows"


def open_rows(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    on_bad_row: Literal["error", "skip"] = "error",
    num_proc: int = 1,
    cache_dir: str | None = None,
) -> tuple[StoredRows, DataReport]:
    """The rows and the report of `load_rows`, in memory that does not grow with the rows.

    What is not on disk yet is tokenised first, by one process where several ask for it at a time.

    Args:
        source: As `load_rows`, but no streaming dataset.
        tokenizer: The policy's.
        max_length: Most tokens of a prompt with any one of its completions, at least 2.
        on_bad_row: `error` stops at the first row that cannot be used; `skip` drops and counts it.
        num_proc: Processes that tokenise; the rows are the same.
        cache_dir: Where the rows are kept; None: `rows_folder()`.

    Raises:
        DataError: As `load_rows`; or the folder cannot be written, or the source changed while it was read.
    """
    name = source_name(source)
    if is_stream(source):
        raise DataError(f"{name}: a streaming dataset can be read in order only; set data.streaming to true")
    digest = source_digest(source)
    place = Path(cache_dir) if cache_dir else rows_folder()
    folder = place / rows_key(digest, tokenizer, max_length=max_length, on_bad_row=on_bad_row)
    with suppress(_NotThereError):
        return _open(folder, name)
    unwritten = _Unwritten(source, digest, tokenizer, max_length, on_bad_row, num_proc)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            try:
                return _open(folder, name)
            except _NotThereError:
                _sweep(place)
                unwritten.write(folder)
                return _open(folder, name)
    except OSError as error:
        raise _cannot_write(place, error) from error


class StoredRows(RowView):
    """The rows of one source, read from disk when they are asked for."""

    def __init__(self, path: Path, kind: Any, source: str, num_rows: int) -> None:
        """Open the file.

        Args:
            path: An Arrow file of `_BATCH_ROWS` rows a batch.
            kind: That of the rows.
            source: Their source's name.
            num_rows: How many there are.
        """
        self._path = path
        # read, not mapped: the pages of a map would count as this process's memory
        self._reader = pa.ipc.open_file(pa.OSFile(str(path)))
        self._kind = kind
        self._source = source
        self._num_rows = num_rows
        self._held: OrderedDict[int, Decoder] = OrderedDict()

    def __len__(self) -> int:
        return self._num_rows

    def at(self, index: int) -> Row:
        """The row, checked.

        Raises:
            DataError: It is not what was written.
        """
        number, place = divmod(index, _BATCH_ROWS)
        try:
            return self._batch(number).row(place)
        except DamagedRowError as error:
            raise self._damaged(str(error)) from error

    def numbers(self) -> Iterator[int]:
        """The number of each row, without the row."""
        for number in range(self._reader.num_record_batches):
            yield from self._batch(number).numbers.tolist()

    def _batch(self, number: int) -> Decoder:
        held = self._held
        if number not in held:
            try:
                batch = self._reader.get_batch(number)
                # Arrow trusts what a file says of its buffers, and ends the process where it is wrong.
                batch.validate(full=True)
                held[number] = Decoder(batch, self._kind, self._source)
            except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
                raise self._damaged(" ".join(str(error).split())[:120]) from error
            if len(held) > _BATCHES_HELD:
                held.popitem(last=False)
        held.move_to_end(number)
        return held[number]

    def _damaged(self, why: str) -> DataError:
        return DataError(
            f"{self._source}: its tokenised rows in {str(self._path.parent)!r} are damaged ({why}); delete that folder "
            "and start again, and they are tokenised anew"
        )


def numbers_of(rows: Sequence[Row]) -> Iterator[int]:
    """The number of each row."""
    return rows.numbers() if isinstance(rows, StoredRows) else (row.number for row in rows)


class _NotThereError(Exception):
    """No such rows are on disk, or not whole."""


def _open(folder: Path, name: str) -> tuple[StoredRows, DataReport]:
    path = folder / _ROWS
    try:
        about = json.loads((folder / _ABOUT).read_bytes())
        report = DataReport.from_dict(about["report"], source=name)
        if about["size"] != path.stat().st_size or about["checksum"] != _about_digest(about):
            raise _NotThereError
        if report.num_more:
            report = DataReport.from_dict(about["report"], source=name, listing=str(folder / _LISTING))
        rows = StoredRows(path, report.kind, name, report.num_kept)
        if not rows._reader.schema.equals(SCHEMA):
            raise _NotThereError
        return rows, report
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise _NotThereError from error


def _about_digest(about: dict[str, Any]) -> str:
    told = {name: value for name, value in about.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Unwritten:
    source: Source
    digest: str
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    on_bad_row: Literal["error", "skip"]
    num_proc: int

    def write(self, folder: Path) -> None:
        """Write the rows, to be there whole or not at all, whenever the machine stops."""
        partial = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:8]}{_PARTIAL}")
        partial.mkdir()
        try:
            report = self._write_rows(partial)
            if source_digest(self.source) != self.digest:
                raise DataError(f"{source_name(self.source)} changed while it was being read; start again")
            about: dict[str, Any] = {"report": report.as_dict(), "size": (partial / _ROWS).stat().st_size}
            with (partial / _ABOUT).open("w", encoding="utf-8") as file:
                json.dump({**about, "checksum": _about_digest(about)}, file)
                file.flush()
                os.fsync(file.fileno())
            if folder.exists():  # damaged, or it would have been opened
                shutil.rmtree(folder)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write_rows(self, folder: Path) -> DataReport:
        with (folder / _ROWS).open("wb") as file, (folder / _LISTING).open("w", encoding="utf-8") as listing:
            stream = RowStream(
                self.source,
                self.tokenizer,
                max_length=self.max_length,
                on_bad_row=self.on_bad_row,
                num_proc=self.num_proc,
                listing=listing,
            )
            rows = iter(stream)
            with pa.ipc.new_file(file, SCHEMA) as writer:
                while some := self._next(rows):
                    writer.write_batch(encode(some))
            for written in (file, listing):
                written.flush()
                os.fsync(written.fileno())
            return stream.report()

    def _next(self, rows: Iterator[Row]) -> list[Row]:
        try:
            return list(islice(rows, _BATCH_ROWS))
        except OSError as error:
            raise DataError(f"{source_name(self.source)} cannot be read: {error.strerror or error}") from error


def _sweep(place: Path) -> None:
    """Remove what a killed process left a day ago or more."""
    for partial in place.glob(f"*{_PARTIAL}"):
        with suppress(OSError):
            newest = max((file.stat().st_mtime for file in partial.iterdir()), default=partial.stat().st_mtime)
            if time.time() - newest > _ABANDONED_SECONDS:
                shutil.rmtree(partial)


def _cannot_write(place: Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"no room left for tokenised rows in {str(place)!r} ({error.strerror}); make room, or name another "
            "data.cache_dir, and start again"
        )
    return DataError(
        f"tokenised rows cannot be written to {str(place)!r} ({error.strerror or error}); make the folder writable, or "
        "name another data.cache_dir"
    )

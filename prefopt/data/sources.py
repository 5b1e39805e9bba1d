"""Where rows come from: files, folders, dataset ids and objects in memory, read one raw row at a time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from prefopt.data.bad_row import BadRow
from prefopt.data.columns import read_row
from prefopt.errors import DataError, nearest

if TYPE_CHECKING:
    import datasets

    from prefopt.batch import RowKind

Source: TypeAlias = "str | os.PathLike[str] | Sequence[Mapping[str, Any]] | datasets.Dataset | datasets.IterableDataset"
RawRow: TypeAlias = Mapping[str, Any] | str


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Table(Protocol):
    def __iter__(self) -> Iterator[RawRow]: ...
    def __len__(self) -> int: ...

    def feed(self, digest: _Digest) -> None:
        """Give the digest everything the rows are made of."""


_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_FILES = (".jsonl", ".json", ".parquet")
_DIGEST_ROWS = 4096
_PARQUET_ROWS = 256  # made into objects at a time
_DATASET_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def source_name(source: Source) -> str:
    """The source's name in messages: as the user wrote it, or what kind of object it is.

    Args:
        source: What `load_rows` takes.
    """
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return "dataset" if hasattr(source, "with_format") else "list"


def is_stream(source: object) -> bool:
    """Whether a source is a streaming dataset, whose rows can be read in order only.

    Args:
        source: What `load_rows` takes.
    """
    return hasattr(source, "with_format") and not hasattr(source, "__len__")


def source_digest(source: Source) -> str:
    """Hexadecimal sha256 of all that the rows of a source are made of, whatever it is called and wherever it lies.

    Args:
        source: What `load_rows` takes, but no streaming dataset.

    Raises:
        DataError: The source cannot be read.
    """
    table, window = _table(source)
    digest = hashlib.sha256(repr((window.start, window.stop)).encode())
    table.feed(digest)
    return digest.hexdigest()


def row_kind(source: Source, *, streaming: bool = False) -> RowKind:
    """The kind of the first row whose columns make a row; later rows and tokens are not looked at.

    Args:
        source: What `load_rows` takes.
        streaming: As `read_rows`.

    Raises:
        DataError: The source cannot be read, is empty, or no row fits a format.
    """
    first_reason = None
    for number, raw in read_rows(source, streaming=streaming):
        try:
            return read_row(raw).kind
        except BadRow as bad:
            first_reason = first_reason or f"{source_name(source)} row {number}: {bad}"
    raise DataError(first_reason or f"{source_name(source)} has no rows")


def num_rows(source: Source) -> int | None:
    """Rows of a source, usable or not, where that can be told without reading them all; None where it cannot.

    Args:
        source: What `load_rows` takes.

    Raises:
        DataError: There is no such source.
    """
    if is_stream(source):
        return None
    table, window = _open_sliced(str(source)) if isinstance(source, (str, os.PathLike)) else (source, slice(None))
    return len(range(len(table))[window])


def read_rows(source: Source, *, streaming: bool = False) -> Iterator[tuple[int, RawRow]]:
    """Every row of a source, unchecked.

    Args:
        source: A .jsonl, .json or .parquet file, a folder, a Hub id `org/name` or `org/name:split` (a string
            may end in a slice `[a:b]`), a dataset, streaming or not, or a list of mappings.
        streaming: Read a Hub id as its rows come, without downloading it first.

    Returns:
        Pairs of the row's number in the underlying source, from 1, and the row; a row that cannot be parsed
        is the reason, a string.

    Raises:
        DataError: There is no such source, or it cannot be read.
    """
    table, window = _table(source, streaming=streaming)
    start, stop = window.start, window.stop
    if (start or 0) < 0 or (stop or 0) < 0:
        if streaming and isinstance(table, _Dataset) and is_stream(table.dataset):
            raise DataError(f"{source_name(source)!r}: the end of a stream is not known; a slice of it counts from 0")
        start, stop, _ = window.indices(len(table))
    return islice(enumerate(table, 1), start, stop)


def _table(source: Source, *, streaming: bool = False) -> tuple[_Table, slice]:
    if isinstance(source, (str, os.PathLike)):
        return _open_sliced(str(source), streaming=streaming)
    return _in_memory(source), slice(None)


def _open_sliced(source: str, *, streaming: bool = False) -> tuple[_Table, slice]:
    match = re.fullmatch(r"(.+)\[([^\[\]]*)\]", source)
    try:
        if match is None or Path(source).exists():
            return _open(source, streaming=streaming), slice(None)
    except OSError as error:  # a name too long, or a folder that may not be read
        raise DataError(f"{source!r} cannot be read: {error.strerror or error}") from error
    bounds = re.fullmatch(r"(-?[0-9]{1,18})?:(-?[0-9]{1,18})?", match[2].replace(" ", ""))
    if bounds is None:
        raise DataError(f"{source!r} ends in [{match[2]}], which is no slice; write [a:b], [:b] or [a:]")
    start, stop = (int(bound) if bound else None for bound in bounds.groups())
    return _open(match[1], streaming=streaming), slice(start, stop)


def _open(name: str, *, streaming: bool) -> _Table:
    path = Path(name)
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path, split=None)
    base, colon, split = name.rpartition(":")
    if colon and Path(base).is_dir():
        return _folder(Path(base), split)
    if _DATASET_ID.fullmatch(name) and path.suffix not in _FILES:
        return _hub(name, streaming=streaming)
    raise DataError(_missing(name))


def _missing(name: str, why: str = "") -> str:
    path = Path(name)
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    guess = f"; did you mean {str(path.with_name(near))!r}?" if near else ""
    return f"no rows at {name!r}: neither a file, a folder nor a dataset id that can be reached{why}{guess}"


def _file(path: Path) -> _Table:
    if path.suffix == ".parquet":
        return _Parquet(path)
    if path.suffix == ".jsonl":
        return _JsonLines(path)
    if path.suffix == ".json":
        return _json(path)
    raise DataError(f"{str(path)!r} is not a file of rows; those end in {', '.join(_FILES)}")


def _folder(path: Path, split: str | None) -> _Table:
    if (path / "dataset_dict.json").exists():
        path = path / (split or "train")
    if (path / "state.json").exists():
        import datasets

        return _Dataset(datasets.load_from_disk(str(path)))
    files = sorted(file for file in path.rglob("*") if file.suffix in _FILES and file.is_file())
    if not files:
        raise DataError(f"the folder {str(path)!r} holds no saved dataset and no file of rows ({', '.join(_FILES)})")
    splits = sorted({_split_of(file) for file in files} - {None}, key=str)
    if split is None and len(splits) > 1:
        raise DataError(
            f"the folder {str(path)!r} holds the splits {', '.join(map(str, splits))}; name one, as in "
            f"'{path}:{splits[-1]}'"
        )
    chosen = files if split is None else [file for file in files if _split_of(file) == split]
    if not chosen:
        raise DataError(
            f"the folder {str(path)!r} has no split {split!r}; it has: {', '.join(map(str, splits)) or 'none'}"
        )
    return _Chain([_file(file) for file in chosen])


def _split_of(file: Path) -> str | None:
    """The split that a file's name begins with, as in `train-00000-of-00002.parquet`."""
    first = re.split(r"[-_.]", file.stem)[0]
    return first if first in _SPLITS else None


def _hub(name: str, *, streaming: bool) -> _Table:
    import datasets

    base, _, split = name.partition(":")
    try:
        return _Dataset(datasets.load_dataset(base, split=split or "train", streaming=streaming))
    except Exception as error:  # the loader raises its own, the Hub's, HTTP's and the builder's errors
        why = str(error).strip().partition("\n")[0]
        raise DataError(_missing(name, f" ({why or type(error).__name__})")) from error


def _in_memory(source: Any) -> _Table:
    if isinstance(source, Mapping):
        raise DataError(f"the source is a mapping of {', '.join(map(str, source))}; pass one of its splits")
    if hasattr(source, "with_format"):
        return _Dataset(source)
    if isinstance(source, Iterator) or not isinstance(source, Iterable):
        raise DataError(f"the source is a {type(source).__name__}; pass a path, a dataset or a list of rows")
    return _Listed([_mapping(row) for row in source])


@dataclass(frozen=True)
class _Listed:
    rows: Sequence[RawRow]

    def __iter__(self) -> Iterator[RawRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def feed(self, digest: _Digest) -> None:
        for row in self.rows:
            digest.update(_content(row))


@dataclass(frozen=True)
class _JsonLines:
    path: Path

    def __iter__(self) -> Iterator[RawRow]:
        return map(_parse, self._lines())

    def __len__(self) -> int:
        return sum(1 for _ in self._lines())

    def feed(self, digest: _Digest) -> None:
        _feed_file(self.path, digest)

    def _lines(self) -> Iterator[bytes]:
        num_blank = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.strip():
                    num_blank += 1
                    continue
                yield from [b""] * num_blank
                num_blank = 0
                yield line


@dataclass(frozen=True)
class _Parquet:
    path: Path

    def __iter__(self) -> Iterator[RawRow]:
        file = self._open()
        try:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                yield from batch.to_pylist()
        except (OSError, ValueError) as error:  # a damaged page is found when it is read
            raise DataError(f"{str(self.path)!r} is damaged: {error}") from error

    def __len__(self) -> int:
        return int(self._open().metadata.num_rows)

    def feed(self, digest: _Digest) -> None:
        _feed_file(self.path, digest)

    def _open(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except pyarrow.ArrowException as error:
            raise DataError(f"{str(self.path)!r} cannot be read as parquet: {error}") from error


@dataclass(frozen=True)
class _Dataset:
    dataset: Any

    def __iter__(self) -> Iterator[RawRow]:
        # a dataset formatted for torch or numpy would hand out tensors
        return iter(self.dataset.with_format(None))

    def __len__(self) -> int:
        return len(self.dataset)

    def feed(self, digest: _Digest) -> None:
        import pyarrow

        for table in self.dataset.with_format("arrow").iter(_DIGEST_ROWS):
            # neither how a dataset is cut into chunks nor what it is called is content
            whole, sink = table.combine_chunks().replace_schema_metadata(None), io.BytesIO()
            with pyarrow.ipc.new_stream(sink, whole.schema) as writer:
                writer.write_table(whole)
            digest.update(sink.getvalue())


@dataclass(frozen=True)
class _Chain:
    tables: Sequence[_Table]

    def __iter__(self) -> Iterator[RawRow]:
        return chain.from_iterable(self.tables)

    def __len__(self) -> int:
        return sum(map(len, self.tables))

    def feed(self, digest: _Digest) -> None:
        for table in self.tables:
            table.feed(digest)


def _json(path: Path) -> _Table:
    text = path.read_bytes()
    if not text.lstrip().startswith(b"["):
        return _JsonLines(path)  # many a .json file is JSON lines by another name
    try:
        rows = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(path)!r} is not JSON: {error}") from error
    return _Listed([_mapping(row) for row in rows])


def _feed_file(path: Path, digest: _Digest) -> None:
    digest.update(f"{path.suffix} {path.stat().st_size} ".encode())
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)


def _content(row: RawRow) -> bytes:
    """What a row in memory says, for a digest."""
    value = dict(row) if isinstance(row, Mapping) else row
    try:
        text = json.dumps(value, default=_typed)
    except (TypeError, ValueError, RecursionError):  # such a row is a bad one, whose reason says as much as this
        text = repr(value)
    return text.encode() + b"\n"


def _typed(value: object) -> list[object]:
    """A value that JSON does not know: what it is and says."""
    if isinstance(value, Mapping):
        return ["mapping", dict(value)]
    content = value.tolist() if hasattr(value, "tolist") else repr(value)
    return [f"{type(value).__module__}.{type(value).__qualname__}", content]


def _parse(line: bytes) -> RawRow:
    if not line:
        return "is a blank line"
    try:
        text = line.decode("utf-8-sig").rstrip()  # or what is missing at the end would be on a next line
        return _mapping(json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once))
    except UnicodeDecodeError:
        return "is not UTF-8"
    except json.JSONDecodeError as error:
        return f"is not JSON: {error.msg} at column {error.colno}"
    except ValueError as error:
        return f"is not JSON: {error}"
    except RecursionError:
        return "is not JSON that can be read: it is nested too deeply"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):  # JSON takes the last one without a word
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _mapping(row: object) -> RawRow:
    return row if isinstance(row, Mapping) else f"is a {type(row).__name__}, not a mapping of columns"

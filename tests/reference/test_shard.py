from __future__ import annotations

import json
import os
import resource
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from prefopt.errors import StoreError
from prefopt.reference.disk import file_digest
from prefopt.reference.shard import Entry, Shard, write_shard
from tests.reference.stores import IDENTITY, MADE_BY, entries

PLACE = "a place"


@pytest.fixture
def written(tmp_path):
    return write_shard(tmp_path, IDENTITY, entries(50), MADE_BY)


def test_what_is_written_is_read(written):
    shard = Shard(written, IDENTITY, PLACE)
    known = entries(50)
    rows = shard.find(np.array([entry.key for entry in known], dtype="S16"))
    assert sorted(rows.tolist()) == list(range(50))
    for entry, row in zip(known, rows.tolist(), strict=True):
        assert shard.read(row).tobytes() == entry.values.tobytes()
    assert len(shard) == 50
    assert shard.num_tokens == sum(len(entry.values) for entry in known)
    assert shard.about["made_by"] == MADE_BY
    shard.verify()


def test_keys_that_end_in_zeros_are_found(tmp_path):
    """numpy strips zeros off strings of bytes, which must not confuse two keys."""
    keys = [bytes(16), bytes(15) + b"\1", b"\1" + bytes(15), b"\1\1" + bytes(14), b"\xff" * 16]
    path = write_shard(tmp_path, IDENTITY, [Entry(own, np.float32([index])) for index, own in enumerate(keys)], MADE_BY)
    shard = Shard(path, IDENTITY, PLACE)
    for index, row in enumerate(shard.find(np.array(keys, dtype="S16")).tolist()):
        assert shard.read(row).tolist() == [index]
    assert shard.find(np.array([b"\2" * 16, b"\xff" * 15 + b"\xfe"], dtype="S16")).tolist() == [-1, -1]


def test_a_shard_holds_values_and_text_and_no_pickle(written):
    table = pa.ipc.open_file(written).read_all()
    assert [str(field.type) for field in table.schema] == ["fixed_size_binary[16]", "list<item: float>", "uint64"]
    assert set(json.loads(table.schema.metadata[b"prefopt"])) == {"format", "identity", "index", "made_by"}


def test_the_name_is_the_digest_of_the_content_and_nothing_else_is_left(written):
    assert written.stem == file_digest(written)
    assert list(written.parent.iterdir()) == [written]


def test_every_flipped_byte_is_found(tmp_path):
    """Each byte of a small shard in turn: the file is refused, or a row of it, and what is read is always right."""
    known = entries(3)
    path = write_shard(tmp_path, IDENTITY, known, MADE_BY)
    whole = path.read_bytes()
    for place in range(len(whole)):
        bad = bytearray(whole)
        bad[place] ^= 0xFF
        path.write_bytes(bad)
        try:
            shard = Shard(path, IDENTITY, PLACE)
        except StoreError:
            continue  # nothing of it is used
        rows = shard.find(np.array([entry.key for entry in known], dtype="S16")).tolist()
        assert sorted(rows) == [0, 1, 2], place
        for row, entry in zip(rows, known, strict=True):
            with suppress(StoreError):
                assert shard.read(row).tobytes() == entry.values.tobytes(), place
        with pytest.raises(StoreError):
            Shard(path, IDENTITY, PLACE).verify()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_shard_is_damaged(written, share):
    whole = written.read_bytes()
    written.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        StoreError,
        match="is damaged: it cannot be read as Arrow.*`prefopt cache gc --damaged --cache-dir 'a place' --yes`",
    ):
        Shard(written, IDENTITY, PLACE)


def test_another_references_shard_is_refused(written):
    with pytest.raises(StoreError, match=f"holds values of reference {IDENTITY[:12]}, but lies among those of cdcdcd"):
        Shard(written, "cd" * 32, PLACE)


def test_an_unknown_format_is_refused_by_name(written):
    table = pa.ipc.open_file(written).read_all()
    about = json.loads(table.schema.metadata[b"prefopt"]) | {"format": "7"}
    table = table.replace_schema_metadata({"prefopt": json.dumps(about)})
    with pa.ipc.new_file(str(written), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(StoreError, match="has format '7', and this version of prefopt reads '1' only"):
        Shard(written, IDENTITY, PLACE)


@pytest.mark.parametrize("columns", [{"a": [1]}, {"key": [b"k"], "logps": [[1.0]], "check": [1]}])
def test_an_arrow_file_of_another_kind_is_no_shard(tmp_path, columns):
    table = pa.table(columns)
    path = tmp_path / "other.arrow"
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(StoreError, match="is no shard of this store"):
        Shard(path, IDENTITY, PLACE)
    about = {"format": "1", "identity": IDENTITY, "index": "", "made_by": {}}
    table = table.replace_schema_metadata({"prefopt": json.dumps(about)})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(StoreError, match="its columns are not those of a shard"):
        Shard(path, IDENTITY, PLACE)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; gives its folder and a function that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_a_clear_message_and_loses_nothing(small_disk):
    folder, _ = small_disk
    kept = write_shard(folder, IDENTITY, entries(500), MADE_BY)
    with pytest.raises(StoreError, match="no room left for the log-prob store.*what was finished before is kept"):
        write_shard(folder, IDENTITY, entries(20, length=10_000), MADE_BY)
    assert list(folder.iterdir()) == [kept]
    Shard(kept, IDENTITY, PLACE).verify()
    write_shard(folder, IDENTITY, entries(100, seed=1), MADE_BY)


def test_a_read_only_folder_is_a_clear_message(small_disk):
    folder, make_read_only = small_disk
    kept = write_shard(folder, IDENTITY, entries(5), MADE_BY)
    make_read_only()
    with pytest.raises(StoreError, match="cannot be written .*Read-only"):
        write_shard(folder, IDENTITY, entries(5, seed=1), MADE_BY)
    Shard(kept, IDENTITY, PLACE).verify()


def test_a_disk_that_fills_up_while_writing_leaves_no_half_file(tmp_path):
    """Where nothing can be mounted: a process that may write 64 KiB a file."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            write_shard(Path(tmp_path), IDENTITY, entries(20, length=10_000), MADE_BY)
        except StoreError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not list(tmp_path.iterdir())

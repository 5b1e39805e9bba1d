import json
import multiprocessing

import pytest

from prefopt.bench.record import CELLS, appending, read_records
from prefopt.errors import DataError


def record(cell, **more):
    return {"cell": cell, "status": "done", **more}


def write(folder, *records):
    with appending(folder) as record:
        for one in records:
            record.write(one)


def test_what_was_written_is_read(tmp_path):
    write(tmp_path, record("a", seconds=0.5), record("b"))
    write(tmp_path, record("c"))
    assert read_records(tmp_path) == [record("a", seconds=0.5), record("b"), record("c")]


def test_a_line_that_a_killed_run_left_unfinished_is_no_record_and_is_cut_before_the_next(tmp_path):
    write(tmp_path, record("a"))
    with (tmp_path / CELLS).open("ab") as file:
        file.write(b'{"cell": "b", "sta')
    assert read_records(tmp_path) == [record("a")]
    write(tmp_path, record("c"))
    assert read_records(tmp_path) == [record("a"), record("c")]


def test_a_run_killed_at_any_byte_loses_at_most_the_cell_it_was_writing(tmp_path):
    write(tmp_path, record("a"), record("b"))
    whole = (tmp_path / CELLS).read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        (tmp_path / CELLS).write_bytes(whole[:length])
        write(tmp_path, record("c"))
        assert len(read_records(tmp_path)) == 1 + sum(end < length for end in ends)


def test_a_cell_computed_again_after_a_failure_counts_as_its_last_record(tmp_path):
    write(tmp_path, {"cell": "a", "status": "failed"}, record("a"))
    assert read_records(tmp_path) == [record("a")]


def test_a_damaged_line_is_named(tmp_path):
    write(tmp_path, record("a"), record("b"))
    lines = (tmp_path / CELLS).read_bytes().split(b"\n")
    lines[0] = lines[0][:-3]
    (tmp_path / CELLS).write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=rf"{CELLS}, line 1: not the record of a cell"):
        read_records(tmp_path)


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"), appending(tmp_path) as file:
        file.write(record("a", seconds=float("nan")))


def test_an_empty_folder_says_how_to_fill_it(tmp_path):
    with pytest.raises(DataError, match="prefopt bench run"):
        read_records(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to"):
        write(tmp_path / "file", record("a"))


def _append(folder, queue):
    try:
        write(folder, record("b"))
        queue.put("written")
    except DataError as error:
        queue.put(str(error))


def test_two_runs_do_not_write_to_one_record(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with appending(tmp_path) as file:
        file.write(record("a"))
        other = context.Process(target=_append, args=(tmp_path, queue))
        other.start()
        assert "another run writes to" in queue.get(timeout=30)
        other.join()
    assert json.loads((tmp_path / CELLS).read_text()) == record("a")

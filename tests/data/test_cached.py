from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import datasets
import pytest

from prefopt.data import cached
from prefopt.data.cached import numbers_of, open_rows, rows_folder
from prefopt.data.load import load_rows
from prefopt.data.sources import read_rows
from prefopt.errors import DataError

from .tokenizers import tokenizer

PAIRS = [
    {"prompt": f"Question {number}:", "chosen": " the sky" * (1 + number % 5), "rejected": " the sea", "id": number}
    for number in range(400)
]


@pytest.fixture
def jsonl(write_rows):
    rows = [*PAIRS[:300], {"prompt": "p"}, *PAIRS[300:]]
    return write_rows(rows)


def folders():
    return [path for path in rows_folder().iterdir() if path.is_dir()]


@pytest.fixture
def unread(monkeypatch):
    """Reading raw rows fails."""

    def arm():
        monkeypatch.setattr("prefopt.data.load.read_rows", lambda *_, **__: pytest.fail("the rows were read again"))

    return arm


def test_rows_and_report_are_those_of_load_rows_before_and_after_a_hit(jsonl, plain, unread):
    expected, report = load_rows(jsonl, plain, max_length=8, on_bad_row="skip")
    assert report.truncated
    assert report.dropped
    for _ in range(2):
        rows, own = open_rows(jsonl, plain, max_length=8, on_bad_row="skip")
        assert list(rows) == expected
        assert own == report
        assert list(numbers_of(rows)) == [row.number for row in expected]
        unread()


@pytest.mark.parametrize("raw", ["labels", "rankings", "chat"])
def test_every_kind_of_row(raw):
    own = tokenizer("without_bos", "chatml")
    user, turn = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}
    rows = {
        "labels": [{"prompt": "a", "completion": " b", "label": label, "weight": 0.5} for label in (True, False)],
        "rankings": [{"prompt": "a", "completions": [" b", " c", " d"], "scores": [1, 2.5, -3]}],
        "chat": [{"prompt": [user], "chosen": [turn, user, turn], "rejected": [turn]}],
    }[raw]
    assert list(open_rows(rows, own, max_length=64)[0]) == load_rows(rows, own, max_length=64)[0]


def test_a_file_under_another_name_is_found_and_its_rows_have_that_name(jsonl, plain, unread):
    open_rows(jsonl, plain, max_length=8, on_bad_row="skip")
    other = shutil.copy(jsonl, jsonl.with_name("other.jsonl"))
    unread()
    rows, report = open_rows(other, plain, max_length=8, on_bad_row="skip")
    assert (rows[0].source, report.source) == (str(other),) * 2


def test_lists_and_datasets_are_found_again(plain, unread):
    sources = {"list": PAIRS, "dataset": datasets.Dataset.from_list(PAIRS)}
    expected = [list(open_rows(source, plain, max_length=8)[0]) for source in sources.values()]
    unread()
    again = {"list": [dict(row) for row in PAIRS], "dataset": datasets.Dataset.from_list(PAIRS)}
    assert [list(open_rows(source, plain, max_length=8)[0]) for source in again.values()] == expected


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "Another:"},
        {"weight": 2.0},
        {"chosen": " the sky "},
        {"id": None},
    ],
)
def test_one_changed_row_of_a_file_a_list_or_a_dataset_is_seen(tmp_path, plain, change):
    before = [{**row, "weight": 1.0} for row in PAIRS[:20]]
    after = [*before[:19], before[19] | change]
    path = tmp_path / "rows.jsonl"
    for rows in (before, after):
        path.write_text("\n".join(map(json.dumps, rows)))
        for source in (rows, path, datasets.Dataset.from_list(rows)):
            assert list(open_rows(source, plain, max_length=64)[0]) == load_rows(source, plain, max_length=64)[0]
    assert len(folders()) == 6


def test_the_same_size_and_times_do_not_hide_a_change(tmp_path, plain):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIRS[0]))
    os.utime(path, (1, 1))
    first = list(open_rows(path, plain, max_length=64)[0])
    path.write_text(json.dumps(PAIRS[0]).replace("Question", "question"))
    os.utime(path, (1, 1))
    assert list(open_rows(path, plain, max_length=64)[0]) != first


@pytest.mark.parametrize("changed", [{"max_length": 7}, {"on_bad_row": "error"}])
def test_other_settings_are_other_rows(plain, changed):
    open_rows(PAIRS, plain, **{"max_length": 8, "on_bad_row": "skip"})
    open_rows(PAIRS, plain, **{"max_length": 8, "on_bad_row": "skip"} | changed)
    open_rows(PAIRS, tokenizer("bos_is_eos"), max_length=8, on_bad_row="skip")
    assert len(folders()) == 3


def test_a_bad_row_leaves_nothing_behind(jsonl, plain):
    with pytest.raises(DataError, match="row 301: has prompt"):
        open_rows(jsonl, plain, max_length=8)
    assert folders() == []


@pytest.mark.parametrize("name", ["rows.arrow", "about.json"])
@pytest.mark.parametrize("damage", ["missing", "cut short", "empty", "another byte at its end"])
def test_files_that_are_not_whole_are_made_anew(plain, name, damage):
    expected = list(open_rows(PAIRS, plain, max_length=8)[0])
    (folder,) = folders()
    file = folder / name
    content = file.read_bytes()
    changed = {"cut short": content[: len(content) // 2], "empty": b"", "another byte at its end": content + b"x"}
    file.unlink() if damage == "missing" else file.write_bytes(changed[damage])
    assert list(open_rows(PAIRS, plain, max_length=8)[0]) == expected
    assert file.read_bytes() == content


def test_a_report_that_somebody_edited_is_made_anew(jsonl, plain):
    _, report = open_rows(jsonl, plain, max_length=8, on_bad_row="skip")
    (folder,) = folders()
    about = json.loads((folder / "about.json").read_text())
    about["report"]["truncated"] = []
    (folder / "about.json").write_text(json.dumps(about))
    assert open_rows(jsonl, plain, max_length=8, on_bad_row="skip")[1] == report


def test_a_flipped_bit_is_found_when_its_row_is_read(plain):
    rows, _ = open_rows(PAIRS, plain, max_length=8)
    (folder,) = folders()
    file = folder / "rows.arrow"
    content = bytearray(file.read_bytes())
    needle = b"".join(token.to_bytes(4, "little") for token in rows[350].prompt)
    content[content.index(needle)] ^= 1
    file.write_bytes(content)
    damaged, _ = open_rows(PAIRS, plain, max_length=8)
    assert damaged[0] == rows[0]
    with pytest.raises(
        DataError, match=r"list: its tokenised rows in .* are damaged \(row 351 does not match"
    ) as raised:
        list(damaged)
    assert str(folder) in str(raised.value)


def test_killed_at_any_moment_it_leaves_what_the_next_start_passes_over(tmp_path, jsonl, plain):
    plain.save_pretrained(tmp_path / "tokenizer")
    code = """
        import os, signal, sys
        from transformers import AutoTokenizer
        from prefopt.data import cached

        def dying(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        for module, name in ((cached, "encode"), (os, "fsync"), (os, "replace")):
            child = os.fork()
            if not child:
                setattr(module, name, dying)
                cached.open_rows(sys.argv[2], tokenizer, max_length=8, on_bad_row="skip")
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), tmp_path / "tokenizer", jsonl]
    subprocess.run(list(map(str, command)), check=True)
    assert len(folders()) == 3
    rows, _ = open_rows(jsonl, plain, max_length=8, on_bad_row="skip")
    assert list(rows) == load_rows(jsonl, plain, max_length=8, on_bad_row="skip")[0]
    day_before = time.time() - 2 * 24 * 3600
    for folder in folders():
        for file in (*folder.iterdir(), folder):
            os.utime(file, (day_before, day_before))
    open_rows(PAIRS[:1], plain, max_length=8)
    assert not any(folder.suffix == ".partial" for folder in folders())


def test_two_that_ask_at_a_time_tokenise_once_and_get_the_same(plain, monkeypatch):
    read, found = [], []

    def counted(source, **settings):
        read.append(source)
        time.sleep(0.2)
        return read_rows(source, **settings)

    monkeypatch.setattr("prefopt.data.load.read_rows", counted)
    threads = [
        threading.Thread(target=lambda: found.append(list(open_rows(PAIRS, plain, max_length=8)[0]))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 1
    assert found[0] == found[1] == found[2]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(plain, monkeypatch, tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError) as raised:
        open_rows(PAIRS, plain, max_length=8, cache_dir=str(tmp_path / "rows"))
    assert str(raised.value) == (
        f"no room left for tokenised rows in {str(tmp_path / 'rows')!r} (No space left on device); make room, or name "
        "another data.cache_dir, and start again"
    )
    assert not [path for path in (tmp_path / "rows").iterdir() if path.is_dir()]


def test_a_place_that_is_no_folder_is_one_sentence(plain, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="tokenised rows cannot be written to .*another data.cache_dir"):
        open_rows(PAIRS, plain, max_length=8, cache_dir=str(tmp_path / "file" / "rows"))


def test_a_source_that_changes_while_it_is_read_is_refused(jsonl, plain, monkeypatch):
    encode = cached.encode

    def changing(rows):
        jsonl.write_text(json.dumps(PAIRS[0]))
        return encode(rows)

    monkeypatch.setattr(cached, "encode", changing)
    with pytest.raises(DataError, match="rows.jsonl changed while it was being read"):
        open_rows(jsonl, plain, max_length=8, on_bad_row="skip")
    assert folders() == []


def test_a_streaming_dataset_is_refused(plain):
    stream = datasets.Dataset.from_list(PAIRS).to_iterable_dataset()
    with pytest.raises(DataError, match="set data.streaming to true"):
        open_rows(stream, plain, max_length=8)


def test_long_lists_are_cut_in_the_report_and_complete_in_the_listing(jsonl, plain, monkeypatch):
    whole = open_rows(jsonl, plain, max_length=8, on_bad_row="skip")[1]
    monkeypatch.setattr("prefopt.data.report.NUM_LISTED", 50)
    shutil.rmtree(folders()[0])
    for _ in range(2):  # written, then found
        _, report = open_rows(jsonl, plain, max_length=8, on_bad_row="skip")
        assert report.truncated == whole.truncated[:50]
        assert report.num_more == {"truncated": len(whole.truncated) - 50}
        listed = [json.loads(line) for line in Path(report.listing).read_text().splitlines()]
        assert [line["row"] for line in listed if line["what"] == "truncated"] == list(whole.truncated)
        assert [line for line in listed if line["what"] == "dropped"] == [
            {"source": str(jsonl), "row": 301, "what": "dropped", "reason": whole.dropped[301]}
        ]

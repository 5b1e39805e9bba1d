from __future__ import annotations

import json
import os
import time

import pytest

from prefopt.reference.mirror import default_cache_dir
from tests.reference.stores import IDENTITY, MADE_BY, entries, filled, flip_last_value

OTHER = "cd" * 32


@pytest.fixture
def place(tmp_path):
    """Two references; the shards of the first are 40 and 2 days old."""
    store = filled(tmp_path / "store", entries(20), entries(10, seed=1))
    for shard, days in zip(store.shards, (40, 2), strict=True):
        then = time.time() - days * 86400
        os.utime(shard.path, (then, then))
    filled(tmp_path / "store", entries(5, seed=2), identity=OTHER)
    return tmp_path / "store"


def shards(place):
    return sorted(path.name for path in place.rglob("*.arrow"))


def damage(place, identity=IDENTITY):
    path = min((place / identity).glob("*.arrow"))
    flip_last_value(path)
    return path


def test_info_lists_references_with_size_rows_and_age(prefopt, place):
    outcome = prefopt("cache", "info", "--cache-dir", place)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    (first,) = [line for line in lines if line.startswith(IDENTITY[:12])]
    assert first.split()[1:4] == ["tiny", "float32", "30"]
    assert first.endswith("2 d")


def test_info_as_json(prefopt, place):
    found = json.loads(prefopt("cache", "info", "--cache-dir", place, "--json").out)
    assert found["store"] == str(place)
    assert [one["identity"] for one in found["references"]] == [IDENTITY, OTHER]
    one = found["references"][0]
    assert (one["num_shards"], one["num_completions"], one["made_by"]) == (2, 30, MADE_BY)
    assert one["num_bytes"] == sum(path.stat().st_size for path in (place / IDENTITY).iterdir())


@pytest.mark.parametrize("command", ["info", "gc"])
def test_an_empty_store_is_no_error(prefopt, command):
    outcome = prefopt("cache", command)
    assert outcome.code == 0, outcome.err
    assert default_cache_dir() in outcome.out


def test_nothing_to_verify_is_no_success(prefopt):
    assert f"nothing is stored in {default_cache_dir()}" in prefopt("cache", "verify").error


def test_info_is_one_line_a_reference_where_there_is_no_terminal(prefopt, tmp_path):
    filled(tmp_path / "store", entries(3), made_by={**MADE_BY, "name": "/a/very/long/" + "name" * 40})
    lines = prefopt("cache", "info", "--cache-dir", tmp_path / "store").out.splitlines()
    assert len(lines) == 3
    assert "name" * 40 in lines[1]


def test_gc_says_how_to_choose(prefopt, place):
    out = prefopt("cache", "gc", "--cache-dir", place).out
    assert "nothing to delete in" in out
    assert "choose shards with --reference, --older-than or --damaged" in out


def test_gc_lists_a_reference_named_twice_once(prefopt, place):
    arguments = ["cache", "gc", "--cache-dir", place, "--reference", "ab", "--reference", IDENTITY]
    assert prefopt(*arguments).out.count(IDENTITY[:12]) == 1


def test_verify_reads_every_byte(prefopt, place):
    outcome = prefopt("cache", "verify", "--cache-dir", place)
    assert outcome.code == 0, outcome.err
    assert "30 completions in 2 shards are as written, every byte" in outcome.out
    path = damage(place)
    outcome = prefopt("cache", "verify", "--cache-dir", place)
    assert f"1 shard of {place} cannot be used" in outcome.error
    assert "tiny: 1 of 2 shards damaged; " in outcome.out
    assert path.name in outcome.out
    assert "is damaged" in outcome.out


def test_verify_scores_rows_of_a_config_again(prefopt, write_config, write_rows, pair_rows, tmp_path):
    reference = {"mode": "cached", "cache_dir": str(tmp_path / "store")}
    config = write_config(write_rows(pair_rows), reference=reference)
    prefopt("precompute", config, f"data.train={config.with_name('rows.jsonl')}[:4]")
    none = prefopt("cache", "verify", config, f"data.train={config.with_name('rows.jsonl')}[4:]")
    assert "none of the 5 rows is in the log-prob store" in none.error
    prefopt("precompute", config)
    outcome = prefopt("cache", "verify", config, "--rows", 3)
    assert outcome.code == 0, outcome.err
    assert "3 rows scored again: they differ by at most" in outcome.out


def test_gc_says_what_goes_and_deletes_only_with_yes(prefopt, place):
    before = shards(place)
    arguments = ["cache", "gc", "--cache-dir", place, "--older-than", "30d"]
    outcome = prefopt(*arguments)
    assert f"{IDENTITY[:12]}  tiny: 1 shard, " in outcome.out
    assert "40 d old" in outcome.out
    assert "nothing was deleted; add --yes" in outcome.out
    assert shards(place) == before
    assert "deleted 1 file" in prefopt(*arguments, "--yes").out
    assert len(shards(place)) == 2


def test_gc_by_reference(prefopt, place):
    outcome = prefopt("cache", "gc", "--cache-dir", place, "--reference", "abab", "--yes")
    assert "2 shards" in outcome.out
    assert "2 d to 40 d old" in outcome.out
    assert len(shards(place)) == 1
    assert IDENTITY[:12] not in prefopt("cache", "info", "--cache-dir", place).out


def test_gc_by_reference_and_age(prefopt, place):
    prefopt("cache", "gc", "--cache-dir", place, "--reference", OTHER, "--older-than", "1d", "--yes")
    assert len(shards(place)) == 3


def test_gc_of_damaged_shards_takes_nothing_else(prefopt, place):
    path = damage(place)
    outcome = prefopt("cache", "gc", "--cache-dir", place, "--damaged", "--yes")
    assert "1 damaged shard" in outcome.out
    assert not path.exists()
    assert len(shards(place)) == 2


def test_info_shows_a_reference_whose_newest_shard_is_damaged(prefopt, place):
    newest = max((place / IDENTITY).glob("*.arrow"), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(b"")
    then = time.time() - 60
    os.utime(newest, (then, then))
    outcome = prefopt("cache", "info", "--cache-dir", place)
    assert "tiny" in next(line for line in outcome.out.splitlines() if line.startswith(IDENTITY[:12]))
    assert "is damaged" in outcome.out


def test_a_reference_without_a_file_is_not_listed(prefopt, place):
    (place / ("ef" * 32)).mkdir()
    assert "efef" not in prefopt("cache", "info", "--cache-dir", place).out


def test_gc_of_damaged_shards_spares_what_a_newer_version_wrote(prefopt, place, monkeypatch):
    monkeypatch.setattr("prefopt.reference.shard.FORMAT", "0")
    for command in ("info", "verify"):
        outcome = prefopt("cache", command, "--cache-dir", place)
        assert "has format '1', and this version of prefopt reads '0' only" in outcome.out
    prefopt("cache", "gc", "--cache-dir", place, "--damaged", "--yes")
    assert len(shards(place)) == 3


def test_gc_takes_what_killed_writers_left_and_not_what_is_being_written(prefopt, place):
    old, new = place / IDENTITY / "old.partial", place / IDENTITY / "new.partial"
    for path, age in ((old, 7200), (new, 10)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
    outcome = prefopt("cache", "gc", "--cache-dir", place, "--yes")
    assert "1 half-written file" in outcome.out
    assert not old.exists()
    assert new.exists()
    assert len(shards(place)) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--older-than", "soon"], "'soon' is no age; write 30d"),
        (["--reference", ""], "unknown reference ''"),
        (["--reference", "ffff"], f"unknown reference 'ffff'; available: {IDENTITY[:12]}, {OTHER[:12]}"),
    ],
)
def test_a_mistake_is_one_sentence(prefopt, place, arguments, told):
    assert told in prefopt("cache", "gc", "--cache-dir", place, *arguments).error


def test_an_unknown_protocol_is_one_sentence(prefopt):
    for command in ("info", "verify", "gc"):
        assert "nosuch" in prefopt("cache", command, "--cache-dir", "nosuch://x").error

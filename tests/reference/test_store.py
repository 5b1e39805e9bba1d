from __future__ import annotations

import shutil
import threading

import pytest

from prefopt.errors import StoreError
from prefopt.reference.mirror import Mirror
from prefopt.reference.store import Store
from tests.reference.stores import IDENTITY, MADE_BY, entries, filled


def keys(found):
    return [entry.key for entry in found]


def test_entries_of_every_shard_are_found_and_others_are_not(tmp_path):
    parts = [entries(30, seed=seed) for seed in range(4)]
    filled(tmp_path, *parts)
    store = Store(str(tmp_path), IDENTITY)
    known = [entry for part in parts for entry in part]
    others = entries(5, seed=9)
    places = store.find(keys([*known, *others]))
    assert places.missing.tolist() == [False] * 120 + [True] * 5
    for entry, values in zip(known, store.read(keys(known)), strict=True):
        assert values.tobytes() == entry.values.tobytes()
    assert store.read(keys(others)) == [None] * 5


def test_a_store_that_does_not_exist_is_empty_and_is_not_made_by_looking(tmp_path):
    store = Store(str(tmp_path / "none"), IDENTITY)
    assert store.find(keys(entries(3))).missing.all()
    assert store.find([]).missing.tolist() == []
    assert not (tmp_path / "none").exists()


def test_nothing_to_add_writes_nothing(tmp_path):
    filled(tmp_path, [])
    assert not list((tmp_path / IDENTITY).iterdir())


def test_a_copied_folder_just_works(tmp_path):
    known = entries(20)
    filled(tmp_path / "here", known)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert not Store(str(tmp_path / "there"), IDENTITY).find(keys(known)).missing.any()


def test_two_writers_at_once_lose_nothing(tmp_path):
    parts = [[entries(5, seed=100 * writer + part) for part in range(20)] for writer in range(2)]
    threads = [threading.Thread(target=filled, args=(tmp_path, *own)) for own in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store(str(tmp_path), IDENTITY)
    known = [entry for own in parts for part in own for entry in part]
    assert len(store.shards) == 40
    assert [values.tobytes() for values in store.read(keys(known))] == [entry.values.tobytes() for entry in known]


def test_the_same_entries_written_twice_are_one_file(tmp_path):
    filled(tmp_path, entries(5), entries(5)[::-1])
    assert len(list((tmp_path / IDENTITY).iterdir())) == 1


def test_what_a_killed_writer_left_is_not_read(tmp_path):
    filled(tmp_path, entries(5))
    (tmp_path / IDENTITY / "left.partial").write_bytes(b"half a shard")
    assert len(Store(str(tmp_path), IDENTITY).shards) == 1


def test_a_shard_that_is_deleted_while_the_store_opens_is_not_there(tmp_path, monkeypatch):
    store = filled(tmp_path, entries(5), entries(5, seed=1))
    files = [shard.path for shard in store.shards]
    files[0].unlink()
    monkeypatch.setattr(Mirror, "shards", lambda _: files)
    assert len(Store(str(tmp_path), IDENTITY).shards) == 1


def test_a_damaged_shard_stops_the_opening(tmp_path):
    store = filled(tmp_path, entries(5), entries(5, seed=1))
    path = store.shards[0].path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=path.name):
        Store(str(tmp_path), IDENTITY)


def test_a_place_that_is_a_file_is_a_clear_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be read .*name another reference.cache_dir"):
        Store(str(tmp_path / "file"), IDENTITY)


def test_a_folder_that_is_deleted_under_a_writer_is_made_again(tmp_path):
    store = filled(tmp_path)
    (tmp_path / IDENTITY).rmdir()
    store.add(entries(5), MADE_BY)
    assert not Store(str(tmp_path), IDENTITY).find(keys(entries(5))).missing.any()


def test_references_do_not_see_each_other(tmp_path):
    filled(tmp_path, entries(5))
    assert Store(str(tmp_path), "cd" * 32).find(keys(entries(5))).missing.all()


def test_a_shard_added_is_seen_at_once(tmp_path):
    store = filled(tmp_path)
    store.add(entries(5), MADE_BY)
    assert not store.find(keys(entries(5))).missing.any()

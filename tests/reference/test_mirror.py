from __future__ import annotations

from datetime import datetime, timezone

import fsspec
import pytest

from prefopt.errors import StoreError
from prefopt.reference.disk import file_digest
from prefopt.reference.mirror import Mirror, default_cache_dir, identities, is_remote
from prefopt.reference.store import Store
from tests.reference.stores import IDENTITY, entries, filled


@pytest.fixture
def remote(request):
    """A place in fsspec's memory file system, empty again afterwards."""
    place = f"memory://{request.node.name}"
    yield place
    files, root = fsspec.core.url_to_fs(place)
    if files.exists(root):
        files.rm(root, recursive=True)


def on_another_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))


def test_a_store_at_a_url_is_read_on_another_machine(remote, tmp_path, monkeypatch):
    filled(remote, entries(5), entries(5, seed=1))
    on_another_machine(monkeypatch, tmp_path)
    store = Store(remote, IDENTITY)
    known = [*entries(5), *entries(5, seed=1)]
    found = store.read([entry.key for entry in known])
    assert [values.tobytes() for values in found] == [entry.values.tobytes() for entry in known]
    assert identities(remote) == [IDENTITY]


def test_remote_files_appear_whole_and_under_their_digest(remote):
    store = filled(remote, entries(5))
    files, root = fsspec.core.url_to_fs(remote)
    (name,) = files.ls(f"{root}/{IDENTITY}", detail=False)
    assert name.endswith(store.shards[0].path.name)
    assert files.cat_file(name) == store.shards[0].path.read_bytes()


def test_only_what_is_new_is_fetched(remote, tmp_path, monkeypatch):
    filled(remote, entries(5))
    on_another_machine(monkeypatch, tmp_path)
    Store(remote, IDENTITY)
    files, _ = fsspec.core.url_to_fs(remote)
    fetched = []
    monkeypatch.setattr(type(files), "get_file", lambda *arguments, **_: fetched.append(arguments))
    Store(remote, IDENTITY)
    assert not fetched


def refuse(*_, **__):
    raise PermissionError("no")


def test_a_shard_that_could_not_be_sent_is_kept_read_and_sent_at_the_next_start(remote, monkeypatch):
    files, _ = fsspec.core.url_to_fs(remote)
    with monkeypatch.context() as patch:
        patch.setattr(type(files), "put_file", refuse)
        with pytest.raises(StoreError, match="could not be sent to 'memory://.*PermissionError: no.*; it is kept in"):
            filled(remote, entries(5))
    assert Mirror(remote, IDENTITY)._there() == []
    store = Store(remote, IDENTITY)
    assert not store.find([entry.key for entry in entries(5)]).missing.any()
    store.check_writable()  # as every `precompute` does, with or without new rows
    assert len(Mirror(remote, IDENTITY)._there()) == 1
    assert not Store(remote, IDENTITY).find([entry.key for entry in entries(5)]).missing.any()


def test_what_was_deleted_at_the_remote_place_is_not_used_and_never_sent_again(remote, tmp_path, monkeypatch):
    store = filled(remote, entries(5))
    name = store.shards[0].path.name
    files, root = fsspec.core.url_to_fs(remote)
    files.rm_file(f"{root}/{IDENTITY}/{name}")
    later = filled(remote, entries(5, seed=1))
    assert later.find([entry.key for entry in entries(5)]).missing.all()
    assert name not in Mirror(remote, IDENTITY)._there()


def test_a_copy_that_is_damaged_is_replaced_and_the_remote_file_stays(remote):
    store = filled(remote, entries(5))
    mirror, path = Mirror(remote, IDENTITY), Mirror(remote, IDENTITY).shards()[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    mirror.remove(path, damaged=True)
    assert path.read_bytes() == whole
    files, _ = fsspec.core.url_to_fs(remote)
    files.pipe_file(f"{mirror._remote}/{path.name}", b"damaged there too")
    path.write_bytes(whole[:-1] + b"?")
    mirror.remove(path, damaged=True)
    assert mirror._there() == mirror.shards() == []
    assert store.shards


def test_a_copy_is_as_old_as_the_remote_file(remote, tmp_path, monkeypatch):
    filled(remote, entries(5))
    files, _ = fsspec.core.url_to_fs(remote)
    on_another_machine(monkeypatch, tmp_path)
    monkeypatch.setattr(type(files), "modified", lambda *_: datetime(2020, 1, 2, tzinfo=timezone.utc))
    Store(remote, IDENTITY)
    (path,) = Mirror(remote, IDENTITY).shards()
    assert path.stat().st_mtime == datetime(2020, 1, 2, tzinfo=timezone.utc).timestamp()


def test_a_damaged_remote_shard_gives_no_wrong_value(remote, tmp_path, monkeypatch):
    filled(remote, entries(5))
    files, root = fsspec.core.url_to_fs(remote)
    (name,) = files.ls(f"{root}/{IDENTITY}", detail=False)
    files.pipe_file(name, files.cat_file(name)[:-200])
    on_another_machine(monkeypatch, tmp_path)
    with pytest.raises(StoreError, match="is damaged"):
        Store(remote, IDENTITY)


def test_removing_takes_the_remote_file_too(remote):
    filled(remote, entries(5))
    mirror = Mirror(remote, IDENTITY)
    (path,) = mirror.shards()
    mirror.remove(path)
    assert Store(remote, IDENTITY).shards == []
    assert mirror._there() == []


def test_a_place_that_cannot_be_reached_is_not_taken_for_an_empty_one(remote, monkeypatch):
    files, _ = fsspec.core.url_to_fs(remote)
    monkeypatch.setattr(type(files), "ls", refuse)
    for look in (lambda: Store(remote, IDENTITY), lambda: identities(remote)):
        with pytest.raises(StoreError, match="cannot be read: PermissionError: no"):
            look()


def test_a_remote_place_that_takes_no_file_is_found_before_scoring(remote, monkeypatch):
    files, _ = fsspec.core.url_to_fs(remote)
    monkeypatch.setattr(type(files), "pipe_file", refuse)
    with pytest.raises(StoreError, match="the log-prob store 'memory://.*cannot be written: PermissionError: no"):
        filled(remote)


def test_an_unknown_protocol_is_one_sentence():
    with pytest.raises(StoreError, match="reference.cache_dir 'nosuch://x' cannot be opened: .*nosuch") as caught:
        Store("nosuch://x", IDENTITY)
    assert "\n" not in str(caught.value)


def test_local_places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == str(tmp_path / "prefopt" / "references")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == str(tmp_path / "home" / ".cache" / "prefopt" / "references")
    assert Mirror(f"file://{tmp_path}", IDENTITY).folder == tmp_path / IDENTITY
    assert not is_remote("file:///x")
    assert not is_remote("C:/x")
    assert is_remote("s3://bucket/x")


def test_a_fetched_shard_is_the_one_that_was_sent(remote, tmp_path, monkeypatch):
    filled(remote, entries(50))
    on_another_machine(monkeypatch, tmp_path)
    Store(remote, IDENTITY)
    (path,) = Mirror(remote, IDENTITY).shards()
    assert path.stem == file_digest(path)

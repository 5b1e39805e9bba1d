from __future__ import annotations

import fsspec
import pytest

from prefopt.errors import StoreError
from prefopt.reference.mirror import Mirror, default_cache_dir, identities, is_remote
from prefopt.reference.shard import file_digest
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
    first = filled(remote, entries(5), entries(5, seed=1))
    assert first.folder.is_dir()  # the local copy
    on_another_machine(monkeypatch, tmp_path)
    store = Store(remote, IDENTITY)
    assert store.folder != first.folder
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


def test_a_shard_that_could_not_be_sent_is_kept_and_sent_with_the_next(remote, monkeypatch):
    store = filled(remote)
    files, _ = fsspec.core.url_to_fs(remote)

    def refuse(*_, **__):
        raise PermissionError("no")

    with monkeypatch.context() as patch:
        patch.setattr(type(files), "put_file", refuse)
        with pytest.raises(StoreError, match="could not be sent to 'memory://.*PermissionError: no; it is kept"):
            filled(remote, entries(5))
    assert len(list(store.folder.iterdir())) == 1
    filled(remote, entries(5, seed=1))
    assert len(Mirror(remote, IDENTITY)._there()) == 2


def test_a_damaged_remote_shard_gives_no_wrong_value(remote, tmp_path, monkeypatch):
    filled(remote, entries(5))
    files, root = fsspec.core.url_to_fs(remote)
    (name,) = files.ls(f"{root}/{IDENTITY}", detail=False)
    files.pipe_file(name, files.cat_file(name)[:-200])
    on_another_machine(monkeypatch, tmp_path)
    with pytest.raises(StoreError, match="is damaged"):
        Store(remote, IDENTITY)


def test_removing_takes_the_remote_file_too(remote):
    store = filled(remote, entries(5))
    mirror = Mirror(remote, IDENTITY)
    mirror.remove(store.shards[0].path)
    assert not store.folder.exists()
    assert Store(remote, IDENTITY).shards == []


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
    (path,) = Store(remote, IDENTITY).folder.iterdir()
    assert path.stem == file_digest(path)

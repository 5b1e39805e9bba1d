from __future__ import annotations

import hashlib
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from prefopt.errors import ModelError
from prefopt.reference import weights
from prefopt.reference.disk import local_cache
from prefopt.reference.weights import combined, tensor_digests


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {"a": torch.randn(3, 4), "b": torch.randn(5).to(torch.bfloat16), "c": torch.tensor(7)}


@pytest.fixture
def file(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    old = path.stat().st_mtime - 100
    os.utime(path, (old, old))
    return path


@pytest.fixture
def settled(monkeypatch):
    """A file may be remembered at once."""
    monkeypatch.setattr(weights, "_SETTLED_SECONDS", -1.0)


@pytest.fixture
def reads(monkeypatch):
    """The files that were read in full."""
    found = []
    read = weights._read
    monkeypatch.setattr(weights, "_read", lambda path: found.append(path.name) or read(path))
    return found


def test_a_digest_is_that_of_dtype_shape_and_bytes(file, tensors):
    a, b, c = sorted(tensor_digests(file))
    assert a == f"a F32 [3, 4] {hashlib.sha256(tensors['a'].numpy().tobytes()).hexdigest()}"
    assert b == f"b BF16 [5] {hashlib.sha256(tensors['b'].view(torch.int16).numpy().tobytes()).hexdigest()}"
    assert c.startswith("c I64 [] ")


def test_how_tensors_are_cut_into_files_and_ordered_does_not_matter(tmp_path, file, tensors):
    parts = []
    for name in reversed(tensors):
        save_file({name: tensors[name]}, tmp_path / f"{name}.safetensors")
        parts += tensor_digests(tmp_path / f"{name}.safetensors")
    assert combined(parts) == combined(tensor_digests(file))


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_one_change_changes_the_digest(tmp_path, file, tensors, change):
    changed = dict(tensors)
    if change == "value":
        changed["a"] = tensors["a"].clone()
        changed["a"][2, 3] = torch.nextafter(tensors["a"][2, 3], torch.tensor(9.0))
    elif change == "name":
        changed["d"] = changed.pop("a")
    elif change == "dtype":
        changed["c"] = tensors["c"].view(torch.float64)
    else:
        changed["a"] = tensors["a"].reshape(4, 3)
    save_file(changed, tmp_path / "changed.safetensors")
    assert combined(tensor_digests(tmp_path / "changed.safetensors")) != combined(tensor_digests(file))


def test_a_second_start_reads_nothing(file, settled, reads):
    first = tensor_digests(file)
    assert tensor_digests(file) == first
    assert reads == ["model.safetensors"]


def test_a_file_that_has_just_been_written_is_read_again(file, reads):
    """Its times might not show a second write within the same tick of the clock; chmod touches ctime."""
    file.chmod(0o600)
    tensor_digests(file)
    tensor_digests(file)
    assert len(reads) == 2


def test_a_file_changed_in_place_with_its_old_time_put_back_is_read_again(file, settled, reads):
    before, seen = tensor_digests(file), file.stat()
    with file.open("r+b") as held:
        held.seek(-1, os.SEEK_END)
        held.write(b"\x7f")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    now = file.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (seen.st_size, seen.st_mtime_ns, seen.st_ino)
    assert tensor_digests(file) != before
    assert len(reads) == 2


def test_a_moved_or_copied_file_has_the_same_digests(tmp_path, file):
    before = tensor_digests(file)
    shutil.copy(file, tmp_path / "copy.safetensors")
    file.rename(tmp_path / "moved.safetensors")
    assert tensor_digests(tmp_path / "copy.safetensors") == tensor_digests(tmp_path / "moved.safetensors") == before


def test_a_damaged_memory_is_not_believed(file, settled, reads):
    first = tensor_digests(file)
    (memory,) = (local_cache() / "weights").iterdir()
    for text in (memory.read_text().replace("F32", "F64"), "not JSON", "[]", "{}"):
        memory.write_text(text)
        assert tensor_digests(file) == first
    assert len(reads) == 5


def test_a_cache_folder_that_cannot_be_written_costs_only_time(file, settled, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert tensor_digests(file) == tensor_digests(file)


@pytest.mark.parametrize("size", [0, 4, 50, 200])
def test_a_damaged_file_is_one_sentence(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError, match="cannot be read: .*; they are damaged or incomplete") as caught:
        tensor_digests(file)
    assert "\n" not in str(caught.value)


def test_other_formats_count_as_their_bytes(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    assert tensor_digests(path) == [f".gguf {hashlib.sha256(b'GGUF').hexdigest()}"]


def test_a_link_counts_by_its_own_name(tmp_path, file):
    """The Hub's cache links to blobs without a suffix."""
    file.rename(tmp_path / "0123abcd")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "0123abcd")
    assert len(tensor_digests(tmp_path / "link.safetensors")) == 3
    assert len(tensor_digests(tmp_path / "0123abcd")) == 1

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from prefopt.config import AdapterConfig, ModelConfig
from prefopt.engine.loading import load_model
from prefopt.errors import ModelError
from prefopt.reference.identity import Identity, identify
from tests.models import tiny_model


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def of(folder, **settings):
    return identify(ModelConfig(name=str(folder), **settings)).digest


def edit(folder, file="config.json", **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_moved_copied_or_resharded_model_is_the_same(folder, tmp_path):
    before = of(folder)
    shutil.copytree(folder, tmp_path / "copy")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    folder.rename(tmp_path / "moved")
    assert of(tmp_path / "moved") == of(tmp_path / "copy") == of(tmp_path / "sharded") == before


def test_one_changed_weight_is_another_reference(folder):
    before = of(folder)
    weights = load_file(folder / "model.safetensors")
    last = sorted(weights)[-1]
    weights[last].view(-1)[-1] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert of(folder) != before


def test_a_changed_architecture_is_another_reference(folder):
    before = of(folder)
    edit(folder, rms_norm_eps=1e-3)
    assert of(folder) != before


@pytest.mark.parametrize(
    "change",
    [
        {"transformers_version": "9.0"},
        {"_name_or_path": "/elsewhere"},
        {"use_cache": False},
        {"dtype": "bfloat16"},
        {"attention_dropout": 0.5},
    ],
)
def test_versions_paths_and_what_is_off_are_not_in_it(folder, change):
    before = of(folder)
    edit(folder, **change)
    assert of(folder) == before


def test_the_precision_of_scoring_is_in_it(folder):
    assert len({of(folder, dtype=dtype) for dtype in ("float64", "float32", "bfloat16", "float16")}) == 4


def test_the_precision_of_products_is_in_it(folder):
    kinds = [None, "bfloat16", "float16"]
    assert len({of(folder, autocast=kind) for kind in kinds}) == 3
    assert of(folder, autocast="bfloat16") != of(folder, dtype="bfloat16")


def test_stores_from_before_autocast_and_quantisation_hold():
    """What version 0.2 gave, written out."""
    parts = {"weights": "w", "config": "c", "adapter": None, "dtype": "float32"}
    told = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    assert Identity(**parts).digest == told
    assert Identity(**parts, quantization="4bit").precision == "float32 with weights in 4bit"


def test_the_attention_is_not(folder):
    assert of(folder, attention="eager") == of(folder)


@pytest.fixture
def adapter(folder, tmp_path):
    def make(seed=0, name="adapter", **settings):
        pytest.importorskip("peft")
        model = load_model(ModelConfig(name=str(folder), adapter=AdapterConfig(r=4, **settings)), seed=seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def test_an_adapter_by_its_content(folder, adapter, tmp_path):
    base = of(folder)
    first, again = adapter(), adapter(name="again")
    assert of(folder, adapter=AdapterConfig(path=str(first))) == of(folder, adapter=AdapterConfig(path=str(again)))
    found = {
        base,
        of(folder, adapter=AdapterConfig(path=str(first))),
        of(folder, adapter=AdapterConfig(path=str(adapter(seed=1, name="b")))),
        of(folder, adapter=AdapterConfig(path=str(adapter(lora_alpha=99, name="c")))),
    }
    assert len(found) == 4


def test_the_folder_of_an_adapter_stands_for_its_base_with_it(folder, adapter):
    first = adapter()
    assert of(first) == of(folder, adapter=AdapterConfig(path=str(first)))


def test_a_new_adapter_begins_as_its_base_whatever_its_seed(folder):
    assert of(folder, adapter=AdapterConfig(r=4)) == of(folder)
    assert of(folder, adapter=AdapterConfig(r=8, init_lora_weights="gaussian")) == of(folder)
    assert of(folder, adapter=AdapterConfig(peft_type="ia3")) == of(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": False},
        {"init_lora_weights": "pissa"},
        {"kasa_config": {}},
        {"peft_type": "vblora"},
        {"init_weights": False, "peft_type": "oft"},
        {"layer_replication": []},
    ],
)
def test_a_new_adapter_that_may_begin_otherwise_than_its_base_is_refused(folder, settings):
    rank = {} if settings.get("peft_type") == "oft" else {"r": 4}
    with pytest.raises(ModelError, match=rf"adapter \({next(iter(settings))}\) may begin otherwise than its base"):
        of(folder, adapter=AdapterConfig(**rank, **settings))


def test_how_a_saved_adapter_began_counts_where_it_has_changed_the_base(folder, adapter, tmp_path):
    first = adapter()
    before = of(first)
    edit(first, "adapter_config.json", init_lora_weights=False)
    assert of(first) == before
    edit(first, "adapter_config.json", init_lora_weights="pissa")
    assert of(first) != before


def test_an_adapter_on_the_hub_is_its_local_copy(adapter, hub):
    first = adapter()
    assert of(hub_copy(first, hub)) == of(first)


def hub_copy(folder, hub, name="name"):
    """The folder as the Hub's cache holds it: snapshots whose files are links to blobs named by their digest."""
    commit, place = "0" * 40, hub / f"models--org--{name}"
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (place / "blobs").mkdir()
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    for file in folder.iterdir():
        blob = place / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return f"org/{name}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import transformers.utils.hub

    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("max_shard_size", ["1GB", "10KB"])
def test_a_model_on_the_hub_is_its_local_copy(folder, tmp_path, hub, max_shard_size):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "cut", max_shard_size=max_shard_size)
    assert of(hub_copy(tmp_path / "cut", hub)) == of(folder)


def change_a_byte(file):
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)


@pytest.mark.parametrize("part", [0, -1])
def test_a_change_in_any_file_of_a_model_on_the_hub_is_another_reference(folder, tmp_path, hub, part):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "cut", max_shard_size="10KB")
    before = of(hub_copy(tmp_path / "cut", hub))
    change_a_byte(sorted((tmp_path / "cut").glob("*.safetensors"))[part])
    assert of(hub_copy(tmp_path / "cut", hub, "changed")) != before


@pytest.mark.parametrize("part", [0, 1])
def test_every_file_in_torchs_own_format_counts(folder, part):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    where = {name: files[number % 2] for number, name in enumerate(sorted(weights))}
    for file in files:
        torch.save({name: own for name, own in weights.items() if where[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    before = of(folder)
    change_a_byte(folder / files[part])
    assert of(folder) != before


def test_a_config_written_otherwise_is_the_same(folder):
    """As transformers 4 wrote it: another name for the base of the rotation, defaults left out."""
    before = of(folder)
    path = folder / "config.json"
    values = json.loads(path.read_text())
    theta = values.pop("rope_parameters")["rope_theta"]
    for name in ("attention_bias", "mlp_bias", "bos_token_id", "pretraining_tp", "initializer_range"):
        values.pop(name, None)
    path.write_text(json.dumps(values | {"rope_theta": theta, "transformers_version": "4.40.0"}))
    assert of(folder) == before
    path.write_text(json.dumps(values | {"rope_theta": 2 * theta}))
    assert of(folder) != before


def test_a_weights_file_of_its_own_is_refused(folder):
    edit(folder, transformers_weights="other.safetensors")
    with pytest.raises(ModelError, match="names a weights file of its own"):
        of(folder)


def test_a_gguf_file_that_another_one_would_hide_is_refused(folder, tmp_path, monkeypatch):
    (folder / "model.gguf").write_bytes(b"GGUF")
    of(folder, gguf_file="model.gguf")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "model.gguf").write_bytes(b"another")
    with pytest.raises(ModelError, match="lies in this folder too"):
        of(folder, gguf_file="model.gguf")
    monkeypatch.chdir(folder)
    of(folder, gguf_file="model.gguf")


@pytest.mark.parametrize("damage", ["missing shard", "index", "config"])
def test_files_that_cannot_be_read_are_one_sentence(folder, tmp_path, damage):
    cut = tmp_path / "cut"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(cut, max_shard_size="10KB")
    if damage == "missing shard":
        min(cut.glob("*.safetensors")).unlink()
    else:
        (cut / {"index": "model.safetensors.index.json", "config": "config.json"}[damage]).write_text("not JSON")
    with pytest.raises(ModelError, match="cannot be identified") as caught:
        of(cut)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_one_sentence(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights .* \(model\.safetensors, pytorch") as caught:
        of(folder)
    assert "\n" not in str(caught.value)


def test_the_digest_covers_every_part():
    parts = {"weights": "w", "config": "c", "adapter": None, "dtype": "float32"}
    every = [field.name for field in dataclasses.fields(Identity)]
    found = {Identity(**parts).digest} | {Identity(**parts | {name: "x"}).digest for name in every}
    assert len(found) == 1 + len(every) == 7

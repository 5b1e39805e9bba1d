from __future__ import annotations

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


def test_a_new_adapter_with_random_output_is_refused(folder):
    with pytest.raises(ModelError, match="init_lora_weights = False makes the initial policy differ from its base"):
        of(folder, adapter=AdapterConfig(init_lora_weights=False))


def test_a_model_on_the_hub_is_found_in_the_local_copy(folder, tmp_path, monkeypatch):
    """The layout of the Hub's cache: snapshots whose files are links to blobs."""
    commit = "0" * 40
    place = tmp_path / "hub" / "models--org--name"
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (place / "blobs").mkdir()
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    for file in folder.iterdir():
        shutil.copy(file, place / "blobs" / file.name)
        (snapshot / file.name).symlink_to(place / "blobs" / file.name)
    import transformers.utils.hub

    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert of("org/name") == of(folder)


def test_a_folder_without_weights_is_one_sentence(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights .* \(model\.safetensors, pytorch") as caught:
        of(folder)
    assert "\n" not in str(caught.value)


def test_the_digest_covers_every_part():
    parts = {"weights": "w", "config": "c", "adapter": None, "dtype": "float32"}
    found = {Identity(**parts).digest} | {Identity(**parts | {name: "x"}).digest for name in parts}
    assert len(found) == 5

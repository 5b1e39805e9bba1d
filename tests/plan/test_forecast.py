from __future__ import annotations

import pytest

import prefopt
from prefopt.config import load_config
from prefopt.errors import ConfigError
from prefopt.plan.forecast import forecast
from prefopt.plan.page import as_data, lines


@pytest.fixture
def plan(model_folder, write_rows, pair_rows, tmp_path):
    """The forecast of a small run, with changes."""
    path = tmp_path / "run.yaml"
    path.write_text(
        f"model: {model_folder}\ndata: {{train: {write_rows(pair_rows)}, max_length: 64}}\nloss: dpo\n"
        f"training: {{batch_size: 4, tokens_per_microbatch: 256}}\noutput_dir: {tmp_path / 'out'}\n"
    )

    def make(*overrides, loss="dpo", **settings):
        return forecast(load_config(path, overrides), prefopt.get_loss(loss), **{"device": "cuda", **settings})

    return make


def test_bytes_of_a_parameter_are_those_of_adamw(plan):
    found = plan()
    parts = found.memory["live"]
    for part, each in {"weights": 4, "reference": 4, "optimizer": 8}.items():
        assert parts[part] == pytest.approx(each * found.parameters, rel=0.01), part
    assert "reference" not in found.memory["stored"]
    assert sum(found.memory["live"].values()) - sum(found.memory["stored"].values()) == parts["reference"]


def test_an_adapter_is_its_own_reference(plan):
    pytest.importorskip("peft")
    found = plan("model.adapter.r=4")
    assert found.trainable < found.parameters
    assert "reference" not in found.memory["live"]
    assert found.memory["live"]["optimizer"] == 8 * found.trainable
    moving = plan("model.adapter.r=4", "reference.update_steps=2")
    assert moving.memory["live"]["reference"] == 4 * found.trainable  # an adapter of its own


def test_a_loss_without_reference_has_one_way(plan):
    found = plan(loss="simpo")
    assert list(found.memory) == ["none"]
    assert "reference" not in found.flops


def test_ddp_exchanges_and_fsdp_shares(plan):
    alone, ddp, fsdp = plan(), plan(processes=2), plan(processes=2, sharding="fsdp")
    assert ddp.memory["live"]["weights"] == alone.memory["live"]["weights"]
    assert ddp.memory["live"]["exchange"] == 4 * alone.parameters
    for part in ("weights", "optimizer", "reference"):
        assert fsdp.memory["live"][part] == pytest.approx(alone.memory["live"][part] / 2, rel=0.01)
    with pytest.raises(ConfigError, match="at least 1"):
        plan(processes=0)


def test_checkpointing_keeps_less(plan):
    assert plan().checkpointed["live"] < sum(plan().memory["live"].values())


def test_the_reference_is_a_third_of_the_policys_arithmetic(plan):
    flops = plan().flops
    assert flops["reference"] == flops["forward"]
    assert 1.8 < flops["backward"] / flops["forward"] < 2.3


def test_a_process_on_a_cpu_holds_its_libraries_too(plan):
    parts = plan(device="cpu").memory["live"]
    assert parts["process"] > 10**8
    assert sum(parts.values()) > sum(plan().memory["live"].values())


@pytest.mark.parametrize("loss", ["dpo", "kto", "tdpo2", "wpo", "orpo"])
def test_the_page_fits_a_terminal(plan, loss):
    found = plan(loss=loss)
    text = list(lines(found, 1e12))
    assert all(len(line) <= 80 for line in text)
    assert sum(line.startswith("peak") for line in text) == 1
    data = as_data(found, 1e12)
    for way, parts in data["memory_bytes"].items():
        assert parts["peak"] == sum(size for part, size in parts.items() if part != "peak")
        assert data["seconds"][way] == round(data["flops"][way] / 1e12)

"""The reference of an adapter run: what the config says it is, by content, live or stored."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.config import AdapterConfig, ModelConfig
from prefopt.data.load import load_rows
from prefopt.reference.identity import identify
from tests.peers.dense import token_logps
from tests.peers.runs import train_once

pytest.importorskip("peft")
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
LONG = {"training": {"max_steps": 4, "batch_size": 9, "learning_rate": 0.5}}


@pytest.fixture
def adapter(model_folder, pair_rows, tmp_path):
    """A trained adapter, far enough from its base to be told apart from it."""
    model = {"name": str(model_folder), "adapter": LORA}
    found = train_once(pair_rows, {"model": model, "output_dir": str(tmp_path / "adapter")}, LONG)
    assert not (found.folder / "model.safetensors").exists()
    return found.folder


def first_loss(policy, reference, model_folder, raw, beta=0.1):
    """DPO's first loss through transformers' own forward."""
    rows, _ = load_rows(raw, AutoTokenizer.from_pretrained(model_folder), max_length=64)
    margins = [
        [
            float(token_logps(policy, row.prompt, own).sum() - token_logps(reference, row.prompt, own).sum())
            for own in row.completions
        ]
        for row in rows
    ]
    gaps = torch.tensor([chosen - rejected for chosen, rejected in margins])
    return float(-torch.nn.functional.logsigmoid(beta * gaps).mean())


def both_modes(train, rows, *, model, reference=None, **changes):
    """The same run with the reference live and stored, which must be one to rounding; gives the live one's steps."""
    named = {} if reference is None else {"model": reference}
    live = train(rows, model=model, reference={"mode": "live", **named}, **{**LONG, **changes})
    stored = train(rows, model=model, reference={"mode": "cached", **named}, **{**LONG, **changes})
    assert stored.losses == pytest.approx(live.losses, rel=1e-4)
    assert all(step["loss"] != live.losses[0] for step in live.steps[1:])
    return live, stored.record["reference"]


def test_19_a_new_adapter_is_held_against_its_base(train, model_folder, pair_rows):
    model = {"name": str(model_folder), "adapter": LORA}
    live, stored = both_modes(train, pair_rows, model=model)
    assert live.losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert stored["identity"] == identify(ModelConfig(name=str(model_folder))).digest
    # The last step holds the adapter as it then is against the base as it always was.
    before_last = train(pair_rows, model=model, **{**LONG, "training": {**LONG["training"], "max_steps": 3}})
    policy, base = (AutoModelForCausalLM.from_pretrained(folder) for folder in (before_last.folder, model_folder))
    assert live.losses[3] == pytest.approx(first_loss(policy, base, model_folder, pair_rows), rel=1e-4)


def test_19_an_adapter_that_is_continued_is_held_against_itself_as_it_began(train, model_folder, adapter, pair_rows):
    model = {"name": str(model_folder), "adapter": {"path": str(adapter)}}
    live, stored = both_modes(train, pair_rows, model=model)
    assert live.losses[0] == pytest.approx(math.log(2), abs=1e-6)
    began = ModelConfig(name=str(model_folder), adapter=AdapterConfig(path=str(adapter)))
    assert stored["identity"] == identify(began).digest != identify(ModelConfig(name=str(model_folder))).digest
    before_last = train(pair_rows, model=model, **{**LONG, "training": {**LONG["training"], "max_steps": 3}})
    policy, began = (AutoModelForCausalLM.from_pretrained(folder) for folder in (before_last.folder, adapter))
    assert live.losses[3] == pytest.approx(first_loss(policy, began, model_folder, pair_rows), rel=1e-4)


def test_19_an_adapter_that_is_continued_is_held_against_its_base_where_the_config_names_it(
    train, model_folder, adapter, pair_rows, tmp_path
):
    """By content: a copy of the base elsewhere is the base, and its stored log-probs are found again."""
    model = {"name": str(model_folder), "adapter": {"path": str(adapter)}}
    live, stored = both_modes(train, pair_rows, model=model, reference=str(model_folder))
    policy, base = (AutoModelForCausalLM.from_pretrained(folder) for folder in (adapter, model_folder))
    truth = first_loss(policy, base, model_folder, pair_rows)
    assert abs(truth - math.log(2)) > 1e-2
    assert live.losses[0] == pytest.approx(truth, rel=1e-5)
    shutil.copytree(model_folder, tmp_path / "copy")
    again, found = both_modes(train, pair_rows, model=model, reference=str(tmp_path / "copy"))
    assert again.losses == pytest.approx(live.losses, rel=1e-6)
    assert found["identity"] == stored["identity"]
    assert (found["rows_scored"], found["rows_reused"]) == (0, 9)


def test_19_another_model_is_the_reference_where_the_config_names_it(
    train, model_folder, adapter, other_model, pair_rows
):
    """Another model altogether is a reference too, and no adapter is put on it."""
    model = {"name": str(model_folder), "adapter": {"path": str(adapter)}}
    live, stored = both_modes(train, pair_rows, model=model, reference=str(other_model))
    policy, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (adapter, other_model))
    assert live.losses[0] == pytest.approx(first_loss(policy, other, model_folder, pair_rows), rel=1e-5)
    assert stored["identity"] == identify(ModelConfig(name=str(other_model))).digest

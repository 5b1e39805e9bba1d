"""The reference of a run is what the config says, by content, and takes no more memory than it must."""

from __future__ import annotations

import math

import pytest
import torch

import prefopt
from prefopt.config import parse_config
from prefopt.data.trees import grow_rows
from prefopt.engine.loading import load_model, load_tokenizer
from prefopt.engine.logps import Scorer
from prefopt.engine.proven import proven
from prefopt.errors import ModelError
from prefopt.reference.live import Kind, kind_of, live_reference
from prefopt.training.saving import save_policy
from prefopt.training.trainer import Trainer
from tests.engine.rows import random_rows

ROWS = random_rows("pairs", 6)
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}


@pytest.fixture(autouse=True)
def _peft():
    pytest.importorskip("peft")


@pytest.fixture
def config(model_folder, tmp_path):
    def make(adapter=None, other=None, *, model=None, reference=None, **training):
        return parse_config(
            {
                "model": {"name": str(model or model_folder), **({"adapter": adapter} if adapter else {})},
                "data": {"train": "rows.jsonl"},
                "loss": "dpo",
                "reference": {**({"model": other} if other else {}), **(reference or {})},
                "training": {
                    **{"batch_size": 3, "tokens_per_microbatch": 40, "learning_rate": 0.05, "optimizer": "sgd"},
                    **{"max_steps": 4, **training},
                },
                "output_dir": str(tmp_path / "out"),
            }
        )

    return make


@pytest.fixture
def saved(config, model_folder, tmp_path):
    """The folder of an adapter that was trained."""

    def make(name="saved", seed=0, **settings):
        policy = load_model(config({**LORA, **settings}).model, seed=seed)
        with torch.no_grad():
            for own in policy.parameters():
                if own.requires_grad:
                    own.add_(0.05)
        save_policy(policy, load_tokenizer(config().model), tmp_path / name)
        return tmp_path / name

    return make


def start(config):
    tokenizer = load_tokenizer(config.model)
    policy, _ = proven(load_model(config.model), "policy", tokenizer, ROWS, autocast=config.model.autocast)
    said = []
    reference, used = live_reference(config, policy, tokenizer, ROWS, said.append)
    return policy, reference, used, said


def logps(scorer):
    return scorer.score(grow_rows(ROWS), tokens_per_microbatch=10**6).values


def own_bytes(reference, policy):
    theirs = {own.untyped_storage().data_ptr() for own in (*policy.parameters(), *policy.buffers())}
    own = {each.untyped_storage().data_ptr(): each.nbytes for each in (*reference.parameters(), *reference.buffers())}
    return sum(size for place, size in own.items() if place not in theirs)


def adapter_bytes(policy):
    return sum(own.nbytes for own in policy.parameters() if own.requires_grad)


def train(config, reference=None):
    """Losses of a run; with the reference given, or the one that belongs to it."""
    policy, own, _, _ = start(config)
    reference = reference or own
    losses = []
    trainer = Trainer(policy, reference, prefopt.get_loss("dpo"), ROWS, config.training, moving=config.reference)
    trainer.run(lambda step: losses.append(step.metrics["loss"]))
    return losses, policy, reference


def test_of_a_new_adapter_it_is_the_base_in_the_same_weights(config):
    policy, reference, used, said = start(config(LORA))
    assert used == {"kind": "base", "model_loaded": False}
    assert said == ["reference: the base of the policy, with the adapter off; it takes no memory of its own"]
    assert own_bytes(reference, policy) == 0
    base, *_ = start(config())
    assert torch.equal(logps(reference), logps(base))


def test_of_an_adapter_that_is_continued_it_is_the_adapter_as_it_began(config, saved):
    folder = saved()
    for run in (config({"path": str(folder)}), config(model=folder)):
        policy, reference, used, said = start(run)
        assert used == {"kind": "initial adapter", "model_loaded": False}
        assert "with the adapter it begins with" in said[0]
        assert own_bytes(reference, policy) == adapter_bytes(policy)
        assert torch.equal(logps(reference), logps(policy))


def test_another_model_that_is_the_base_by_content_is_not_loaded(config, saved, model_folder, tmp_path):
    folder = saved()
    copied = tmp_path / "copied"
    load_model(config().model).save_pretrained(copied)
    base, *_ = start(config())
    for other in (str(model_folder), str(copied), {"name": str(copied), "attention": "eager"}):
        policy, reference, used, _ = start(config({"path": str(folder)}, other))
        assert used == {"kind": "base", "model_loaded": False}
        assert own_bytes(reference, policy) == 0
        assert torch.equal(logps(reference), logps(base))


def test_the_initial_adapter_under_another_name_is_not_loaded(config, saved, tmp_path):
    folder, again = saved(), saved("again")
    policy, reference, used, _ = start(config({"path": str(folder)}, str(again)))
    assert used["kind"] == "initial adapter"
    assert own_bytes(reference, policy) == adapter_bytes(policy)


@pytest.mark.parametrize("other", ["weights", "dtype", "autocast", "adapter"])
def test_another_model_is_loaded(config, saved, model_folder, tmp_path, other):
    named = {"weights": str(tmp_path / "other"), "dtype": {"name": str(model_folder), "dtype": "float64"}}
    model = load_model(config().model)
    with torch.no_grad():
        next(model.parameters())[3, 3] += 1e-3
    model.save_pretrained(tmp_path / "other")
    named["autocast"] = {"name": str(model_folder), "autocast": "bfloat16"}
    named["adapter"] = str(saved("other adapter", r=2))
    run = config({"path": str(saved())}, named[other])
    policy, reference, used, said = start(run)
    assert used == {"kind": "model", "model_loaded": True}
    assert "a second model in memory" in said[0]
    assert own_bytes(reference, policy) > adapter_bytes(policy)
    settings = run.reference.model
    alone, _ = proven(load_model(settings), "alone", load_tokenizer(run.model), ROWS, autocast=settings.autocast)
    assert torch.equal(logps(reference), logps(alone))


@pytest.mark.parametrize("init", ["pissa", False])
def test_of_a_new_adapter_that_begins_elsewhere_it_is_the_initial_policy(config, init, model_folder):
    policy, reference, used, _ = start(config({**LORA, "init_lora_weights": init}))
    assert used["kind"] == "initial adapter"
    assert torch.equal(logps(reference), logps(policy))
    # PiSSA takes a part of the base away: what is left of it is not the base that is named.
    _, named, used, _ = start(config({**LORA, "init_lora_weights": init}, str(model_folder)))
    assert used["kind"] == ("model" if init == "pissa" else "base")
    base, *_ = start(config())
    assert torch.equal(logps(named), logps(base))


def test_without_an_adapter_it_is_a_copy(config):
    policy, reference, used, _ = start(config())
    assert used == {"kind": "initial policy", "model_loaded": True}
    assert own_bytes(reference, policy) == sum({own.data_ptr(): own.nbytes for own in policy.parameters()}.values())


def test_a_name_that_leads_nowhere_is_one_sentence(config):
    with pytest.raises(ModelError, match="does not exist"):
        kind_of(config(LORA, "/nowhere/at/all"))


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}])
@pytest.mark.parametrize("adapter", [LORA, {**LORA, "modules_to_save": ["lm_head"]}, {**LORA, "use_dora": True}])
def test_a_run_is_that_of_a_reference_in_weights_of_its_own(config, adapter, settings):
    run = config(adapter, **settings)
    losses, policy, reference = train(run)
    base, *_ = start(config())
    apart, other, _ = train(run, base.requires_grad_(False))
    assert losses == apart
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0]
    assert torch.equal(logps(reference), logps(base))
    for own, same in zip(policy.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, same)


def test_a_run_that_goes_on_compares_with_where_its_adapter_began(config, saved):
    losses, policy, reference = train(config({"path": str(saved())}))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    initial, *_ = start(config({"path": str(saved("again"))}))
    assert torch.equal(logps(reference), logps(initial))
    assert not torch.equal(logps(reference), logps(policy))


def test_a_moving_reference_follows_the_adapter_and_leaves_the_base_alone(config):
    run = config(LORA, reference={"update_steps": 2}, max_steps=6)
    before = logps(start(config())[0])
    losses, policy, reference = train(run)
    assert kind_of(run) is Kind.INITIAL_ADAPTER
    assert losses[2] == pytest.approx(math.log(2), abs=1e-6)  # right after a hard update policy and reference are one
    assert torch.equal(logps(reference), logps(policy))
    assert own_bytes(reference, policy) == adapter_bytes(policy)
    assert not torch.equal(logps(reference), before)


def test_products_of_the_reference_have_the_precision_of_the_policy(config):
    run = config(LORA)
    run = run.model_copy(update={"model": run.model.model_copy(update={"autocast": "bfloat16"})})
    policy, reference, *_ = start(run)
    assert reference.autocast is torch.bfloat16
    assert torch.equal(logps(reference), logps(policy))


def test_the_models_share_the_state_of_no_pass(config):
    """A pass of the reference between a policy's forward and backward pass changes no gradient."""
    policy, reference, *_ = start(config({**LORA, "modules_to_save": ["lm_head"]}))
    layout = policy.lay_out(grow_rows(ROWS))

    def gradient(between):
        policy.zero_grad()
        values = policy(layout)
        between()
        values.sum().backward()
        return [own.grad for own in policy.parameters() if own.requires_grad]

    alone = gradient(lambda: None)
    for one, other in zip(alone, gradient(lambda: logps(reference)), strict=True):
        assert torch.equal(one, other)
    assert isinstance(reference, Scorer)

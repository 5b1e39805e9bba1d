from __future__ import annotations

import math

import pytest
import torch

import prefopt
from prefopt.config import TrainingConfig
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.errors import ConfigError, NonFiniteLossError
from prefopt.training.trainer import Trainer
from tests.engine.rows import kind_of, random_rows
from tests.models import tiny_model

REGISTRY = prefopt.load_registry()


def train(loss="dpo", rows=None, policy=None, **settings):
    policy = policy or tiny_model("llama")
    loss = REGISTRY.loss(loss)
    reference = Scorer(tiny_model("llama")) if loss.needs.reference else None
    settings = {"batch_size": 4, "learning_rate": 1e-3, "epochs": 3, **settings}
    rows = rows or random_rows(kind_of(loss), 10)
    trainer = Trainer(Scorer(policy), reference, loss, rows, TrainingConfig(**settings))
    steps = []
    trainer.run(lambda step: steps.append(step.metrics))
    return policy, steps


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
def test_training_lowers_the_loss(name):
    settings = {"epochs": 12, "learning_rate": 5e-3, "batch_size": 10}
    _, steps = train(name, **settings)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(math.isfinite(value) for step in steps for value in step.values())


def test_random_draws_are_new_in_every_step_and_come_from_the_seed():
    def losses(seed):
        still = {"learning_rate": 1e-12, "batch_size": 10, "epochs": 2, "seed": seed}
        _, steps = train("sampo", policy=tiny_model("llama", seed=1), **still)
        return [step["loss"] for step in steps]

    first = losses(0)
    assert first[0] != pytest.approx(first[1], rel=1e-4)
    assert losses(0) == first
    assert losses(1)[0] != pytest.approx(first[0], rel=1e-4)


def test_metrics_hold_what_users_plot():
    _, steps = train()
    names = "step loss step_seconds num_tokens reward_accuracy reward_margin grad_norm learning_rate".split()
    assert set(names) <= set(steps[0])
    assert [step["step"] for step in steps] == list(range(1, 10))
    assert [step["num_rows"] for step in steps] == [4, 4, 2] * 3


def test_the_first_step_of_dpo_is_a_tie_at_ln_2():
    _, steps = train()
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[0]["reward_accuracy"] == 0.5


def test_labels_without_pairs_have_no_accuracy():
    _, steps = train("kto", rows=random_rows("labels", 8))
    assert "reward_accuracy" not in steps[0]
    assert "kl" in steps[0]


def test_same_seed_same_weights_and_another_seed_others():
    first, again, other = (weights(train(seed=seed)[0]) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_size": 5},
        {"optimizer": "rmsprop"},
        {"optimizer": "sgd"},
        {"learning_rate": 2e-3},
        {"scheduler": "linear"},
        {"warmup_steps": 2},
        {"max_grad_norm": 0.1},
        {"max_grad_norm": None},
        {"epochs": 2},
        {"max_steps": 4},
        {"seed": 1},
    ],
)
def test_every_setting_changes_the_weights(changed):
    assert not torch.equal(weights(train()[0]), weights(train(**changed)[0]))


def test_each_step_uses_the_gradient_of_its_own_batch():
    """Two steps of SGD against the same two steps taken by hand."""
    rows, loss = random_rows("pairs", 4), REGISTRY.loss("dpo")
    trained, _ = train(rows=rows, optimizer="sgd", epochs=2, max_grad_norm=None)
    policy, reference = tiny_model("llama"), tiny_model("llama")
    for _ in range(2):
        policy.zero_grad()
        accumulate(Scorer(policy), Scorer(reference), loss, rows, tokens_per_microbatch=10**6)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter -= 1e-3 * parameter.grad
    torch.testing.assert_close(weights(trained), weights(policy), rtol=0, atol=1e-6)


def test_memory_settings_do_not_change_the_weights_beyond_rounding():
    # SGD: Adam's division would blow a rounding of a vanishing gradient up to a whole step.
    plain = weights(train(optimizer="sgd")[0])
    for changed in ({"tokens_per_microbatch": 24}, {"gradient_checkpointing": True}):
        torch.testing.assert_close(weights(train(optimizer="sgd", **changed)[0]), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 1), (True, 2)])
def test_gradient_checkpointing_recomputes_each_layer(checkpointing, passes):
    policy, calls = tiny_model("llama"), []
    policy.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    train(policy=policy, gradient_checkpointing=checkpointing, max_steps=1)
    assert len(calls) == passes


def test_a_gradient_that_is_not_finite_stops_before_the_step():
    policy = tiny_model("llama")
    policy.get_output_embeddings().weight.register_hook(lambda grad: grad * float("nan"))
    before = weights(policy)
    with pytest.raises(NonFiniteLossError, match="step 1: the gradient is nan.*random row"):
        train(policy=policy)
    assert torch.equal(weights(policy), before)


def test_processes_that_did_not_find_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started with 2 processes, but 1 share"):
        train()


def test_no_variable_of_a_launcher_changes_the_gradient(monkeypatch):
    plain = train(max_steps=1)[1][0]["grad_norm"]
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train(max_steps=1)[1][0]["grad_norm"] == plain


def test_a_metric_of_a_loss_cannot_take_the_name_of_ours():
    class Shadow(REGISTRY.loss_class("dpo")):
        def values(self, batch):
            losses = super().values(batch)
            return prefopt.LossOutput(losses, metrics={"loss": losses})

    policy, reference = (Scorer(tiny_model("llama")) for _ in range(2))
    trainer = Trainer(policy, reference, Shadow(), random_rows("pairs", 4), TrainingConfig())
    with pytest.raises(prefopt.PluginError, match="metric named 'loss'"):
        trainer.run(lambda step: None)

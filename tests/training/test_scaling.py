from __future__ import annotations

import copy

import pytest
import torch

import prefopt
from prefopt.config import TrainingConfig
from prefopt.engine.logps import Scorer
from prefopt.errors import NonFiniteLossError
from prefopt.training.trainer import Trainer
from tests.engine.rows import random_rows
from tests.models import tiny_model


def build(autocast):
    policy, reference = (Scorer(tiny_model("llama", seed=seed), autocast=autocast) for seed in (0, 1))
    training = TrainingConfig(batch_size=5, learning_rate=1e-3, max_steps=8, optimizer="sgd")
    return Trainer(policy, reference, prefopt.get_loss("dpo"), random_rows("pairs", 10), training)


def scale_by(trainer, scale):
    trainer._scaling.load_state_dict(trainer._scaling.state_dict() | {"scale": scale})


def steps_of(trainer):
    steps = []
    trainer.run(lambda step: steps.append(step.metrics))
    return steps


def test_float16_follows_the_curve_of_float32():
    exact, scaled = steps_of(build(None)), steps_of(build(torch.float16))
    assert "loss_scale" not in exact[0]
    for one, other in zip(exact, scaled, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-2)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=5e-2)
        assert other["loss_scale"] == 2**16


def test_a_gradient_that_overflows_halves_the_scale_and_takes_no_step():
    trainer = build(torch.float16)
    scale_by(trainer, 2.0**60)
    before = copy.deepcopy(trainer.policy.state_dict())
    taken = []

    def look(step):
        taken.append((step.metrics, all(torch.equal(v, before[k]) for k, v in trainer.policy.state_dict().items())))

    trainer.run(look)
    assert all("grad_norm" not in metrics and untouched for metrics, untouched in taken)
    assert [metrics["loss_scale"] for metrics, _ in taken] == [2.0**power for power in range(59, 51, -1)]


def test_the_scale_goes_on_where_it_was():
    trainer = build(torch.float16)
    scale_by(trainer, 2.0**9)
    taken = trainer.snapshot()
    again = build(torch.float16)
    again.restore(taken)
    assert steps_of(again)[0]["loss_scale"] == 2**9


def test_where_no_scale_is_left_to_lower_the_run_stops():
    trainer = build(torch.float16)
    scale_by(trainer, 1.0)

    def break_gradients(grad):
        return grad * torch.inf

    next(trainer.policy.parameters()).register_hook(break_gradients)
    with pytest.raises(NonFiniteLossError, match="the gradient is (inf|nan) although every loss is finite"):
        steps_of(trainer)

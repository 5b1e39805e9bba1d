from __future__ import annotations

import copy

import pytest
import torch

import prefopt
from prefopt.config import AdapterConfig, ReferenceConfig, TrainingConfig
from prefopt.engine.adapters import Adapter
from prefopt.engine.logps import Scorer
from prefopt.errors import ModelError
from prefopt.training.moving import MovingReference
from prefopt.training.trainer import Trainer
from tests.engine.rows import random_rows
from tests.models import tiny_model
from tests.training.runs import TRAINING


def weights(model):
    return torch.cat([each.detach().flatten().clone() for each in model.parameters()])


def test_the_reference_moves_by_its_share_at_its_steps():
    policy, reference = (Scorer(tiny_model("llama", seed=seed)) for seed in (0, 1))
    moving = MovingReference(policy, reference, every=2, weight=0.25)
    before, target = weights(reference), weights(policy)
    moving.after_step(1)
    assert torch.equal(weights(reference), before)
    moving.after_step(2)
    torch.testing.assert_close(weights(reference), 0.75 * before + 0.25 * target)
    assert torch.equal(weights(policy), target)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_run_follows_its_policy(weight):
    policy = Scorer(tiny_model("llama"))
    reference = copy.deepcopy(policy)
    margins, expected, kept = [], weights(policy), []
    moving = ReferenceConfig(update_steps=2, update_weight=weight)
    trainer = Trainer(
        policy, reference, prefopt.get_loss("dpo"), random_rows("pairs", 10), TrainingConfig(**TRAINING), moving=moving
    )

    def after(step):
        nonlocal expected
        margins.append(step.metrics["loss"])
        if step.number % 2 == 0:
            expected = (1 - weight) * expected + weight * weights(policy)
        torch.testing.assert_close(weights(reference), expected)
        kept.append(step.number)

    trainer.run(after)
    assert len(kept) > 2
    if weight == 1.0:  # right after a hard update, policy and reference are one
        assert margins[2] == pytest.approx(0.6931472, abs=1e-6)


def test_the_factors_of_an_adapter_are_not_mixed():
    pytest.importorskip("peft")
    policy = tiny_model("llama")
    Adapter(AdapterConfig(r=2, target_modules=["q_proj"])).attach(policy, seed=0)
    scorer = Scorer(policy)
    MovingReference(scorer, copy.deepcopy(scorer), every=1, weight=1.0)
    with pytest.raises(ModelError, match="would mix the factors of an adapter"):
        MovingReference(scorer, copy.deepcopy(scorer), every=1, weight=0.5)


def test_a_model_of_another_architecture_cannot_follow():
    with pytest.raises(ModelError, match="reference.model has another architecture"):
        MovingReference(Scorer(tiny_model("llama")), Scorer(tiny_model("qwen2")), every=1, weight=1.0)

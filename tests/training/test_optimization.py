from __future__ import annotations

import pytest
import torch

from prefopt.config import TrainingConfig
from prefopt.training.optimization import build_optimizer, build_scheduler

OPTIMIZERS = {"adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}


def rates(**settings):
    training = TrainingConfig(learning_rate=1.0, **settings)
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], training)
    scheduler = build_scheduler(optimizer, training, steps=10)
    found = []
    for _ in range(10):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs_without_weight_decay(name):
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], TrainingConfig(optimizer=name))
    assert type(optimizer) is OPTIMIZERS[name]
    assert optimizer.defaults["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    optimizer = build_optimizer([frozen, torch.nn.Parameter(torch.zeros(2))], TrainingConfig())
    assert [len(parameter) for group in optimizer.param_groups for parameter in group["params"]] == [2]


def test_schedules_follow_their_names():
    assert rates(scheduler="constant") == [1.0] * 10
    assert rates(scheduler="constant_with_warmup", warmup_steps=4) == [0, 0.25, 0.5, 0.75, *[1.0] * 6]
    assert rates(scheduler="linear", warmup_steps=2)[2:4] == pytest.approx([1.0, 0.875])
    assert rates(scheduler="cosine")[5] == pytest.approx(0.5)

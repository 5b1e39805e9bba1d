from __future__ import annotations

import os

import pytest
import torch

from prefopt.engine.ranks import Ranks
from prefopt.errors import ConfigError
from prefopt.training.placement import Placement


def test_alone_it_is_one_process_that_shards_nothing():
    placement = Placement()
    assert placement.ranks == Ranks(0, 1)
    assert not placement.shards


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what a machine without GPUs cannot give")
@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_what_was_asked_for_and_is_not_given_is_an_error(monkeypatch, own_accelerator, variable, name):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=name):
        Placement()


def test_every_process_loads_the_whole_model(monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    Placement()
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"

from __future__ import annotations

from types import SimpleNamespace

import pytest

import prefopt
from prefopt.advice import advice
from prefopt.config import parse_config
from tests.advice.rows import pairs

REGISTRY = prefopt.load_registry()


def config(model, **training):
    values = {"model": str(model), "data": {"train": "x"}, "loss": "dpo", "output_dir": "o", "training": training}
    return parse_config(values)


def data(*lengths):
    rows = pairs(*lengths)
    return SimpleNamespace(train=rows, evaluation=[])


FAIR = data((4, 3), (3, 4), *[(5, 5)] * 30)


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
def test_nothing_is_said_of_defaults_and_fair_data(name, model_folder):
    found = advice(config(model_folder), REGISTRY.loss(name), FAIR)
    assert [told for told in found if "learning_rate = 1e-6, but loss rrhf" not in told] == []


def test_everything_wrong_is_said_at_once(model_folder):
    found = advice(config(model_folder, learning_rate=1.0), REGISTRY.loss("dpo", beta=3.0), data(*[(9, 2)] * 50))
    assert ["length alone" in found[0], "beta = 3" in found[1], "learning_rate = 1," in found[2]] == [True] * 3


def test_of_a_stream_the_held_out_rows_are_read(model_folder):
    streamed = SimpleNamespace(train=[], evaluation=data(*[(9, 2)] * 50).train)
    (found,) = advice(config(model_folder), REGISTRY.loss("dpo"), streamed)
    assert "length alone" in found
    assert advice(config(model_folder), REGISTRY.loss("dpo"), SimpleNamespace(train=[], evaluation=[])) == []

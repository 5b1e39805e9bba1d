from __future__ import annotations

import pytest

import prefopt
from prefopt.advice.learning_rate import PUBLISHED_WIDTH, learning_rate_advice, width_of
from prefopt.config import ModelConfig, parse_config
from prefopt.weighted import WeightedSum

REGISTRY = prefopt.load_registry()
DPO = REGISTRY.loss("dpo")  # published with 5e-7 to 1e-6


def told(loss=DPO, width=None, adapter=None, **training):
    model = {"name": "m"} | ({} if adapter is None else {"adapter": adapter})
    config = parse_config(
        {"model": model, "data": {"train": "x"}, "loss": "dpo", "output_dir": "o"} | {"training": training}
    )
    return learning_rate_advice(config, loss, width)


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
@pytest.mark.parametrize("width", [None, 64, 576, 4096, 8192])
def test_the_default_raises_no_alarm(name, width):
    low, high = REGISTRY.loss_class(name).learning_rates or (1e-6, 1e-6)
    found = told(REGISTRY.loss(name), width)
    # The one default that is an order of magnitude off: what is said of it is right.
    assert bool(found) == (1e-6 < low / 10)
    assert not found or "expect it to learn slowly" in found[0]
    assert told(REGISTRY.loss(name), width, learning_rate=low) == told(REGISTRY.loss(name), learning_rate=high) == []


@pytest.mark.parametrize(("rate", "alarm"), [(4.9e-8, True), (5.1e-8, False), (9.9e-6, False), (1.1e-5, True)])
def test_the_alarm_begins_an_order_of_magnitude_off(rate, alarm):
    assert bool(told(learning_rate=rate)) == alarm
    assert bool(told(learning_rate=rate, width=PUBLISHED_WIDTH)) == alarm
    assert bool(told(learning_rate=rate, width=2 * PUBLISHED_WIDTH)) == alarm


def test_the_sentence_holds_the_numbers():
    assert told(learning_rate=2e-5) == [
        "training.learning_rate = 2e-5, but loss dpo was published with 5e-7 to 1e-6 for whole models of billions of "
        "parameters; expect the policy to lose its language"
    ]
    (found,) = told(learning_rate=0.5, width=64, adapter={"r": 4})
    assert "with 10 times as much for an adapter and 64 times as much for a width of 64 in place of 4096" in found
    assert "0.00032 to 0.00064" in found


def test_narrow_models_and_adapters_take_more():
    assert told(learning_rate=6e-5)
    assert told(learning_rate=6e-5, width=576) == []
    assert told(learning_rate=6e-5, adapter={"r": 4}) == []
    assert told(learning_rate=1e-7) == []
    assert "learn slowly" in told(learning_rate=1e-7, adapter={"r": 4})[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adafactor"])
def test_rates_that_mean_something_else_are_not_compared(optimizer):
    assert told(learning_rate=0.1, optimizer=optimizer) == []
    assert told(learning_rate=0.1, optimizer="rmsprop")


def test_a_loss_that_declares_nothing_is_not_judged():
    assert REGISTRY.loss_class("ipo").learning_rates is None
    assert told(REGISTRY.loss("ipo"), learning_rate=1.0) == []


def test_a_sum_is_judged_part_by_part():
    mixed = WeightedSum(((1.0, DPO), (0.2, REGISTRY.loss("sft"))))
    (found,) = told(mixed, learning_rate=2e-5)
    assert "loss dpo" in found
    assert len(told(mixed, learning_rate=1e-2)) == 2


def test_the_width_comes_from_the_config(model_folder):
    assert width_of(ModelConfig(name=str(model_folder))) == 32


def test_no_config_no_width(tmp_path):
    assert width_of(ModelConfig(name=str(tmp_path))) is None


def test_the_width_of_a_real_model(shared):
    assert width_of(ModelConfig(name=str(shared / "models" / "stories260K"))) == 64

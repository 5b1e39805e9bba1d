from __future__ import annotations

import pytest

import prefopt
from prefopt.advice.settings import settings_advice
from prefopt.weighted import WeightedSum

REGISTRY = prefopt.load_registry()


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
def test_defaults_are_worth_searching(name):
    assert settings_advice(REGISTRY.loss(name)) == []


@pytest.mark.parametrize("beta", [0.01, 1.0])
def test_the_ends_of_a_range_belong_to_it(beta):
    assert settings_advice(REGISTRY.loss("dpo", beta=beta)) == []


def test_a_value_outside_is_told_with_range_and_default():
    assert settings_advice(REGISTRY.loss("dpo", beta=5.0)) == [
        "loss dpo: beta = 5 lies outside 0.01 to 1, the range worth searching (default 0.1)"
    ]
    assert len(settings_advice(REGISTRY.loss("simpo", beta=0.1, gamma=3.0))) == 2


def test_a_term_switched_off_is_left_alone():
    assert settings_advice(REGISTRY.loss("cpo", lambda_=0.0)) == []
    assert settings_advice(REGISTRY.loss("kto", desirable_weight=0.0)) == []


def test_a_field_left_empty_and_one_without_a_range_are_left_alone():
    assert settings_advice(REGISTRY.loss("chipo", r_max=None)) == []
    assert settings_advice(REGISTRY.loss("kto", undesirable_weight=40.0)) == []


def test_a_sum_is_judged_part_by_part():
    mixed = WeightedSum(((1.0, REGISTRY.loss("dpo", beta=0.001)), (0.2, REGISTRY.loss("ipo", tau=7.0))))
    assert [told.partition(" =")[0] for told in settings_advice(mixed)] == ["loss dpo: beta", "loss ipo: tau"]

"""Whatever a config says, the user meets a trained model or one sentence (fuzz.py in benchmarks: any number)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import configs
from tests.fuzz.commands import run
from tests.fuzz.configs import CASES, FIELDS, Case, play
from tests.fuzz.fields import fits

# A case takes a second: found ones are shown as they are, not looked for in smaller ones.
few = settings(max_examples=3, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
many = settings(few, max_examples=200)


@pytest.mark.parametrize("kind", CASES)
def test_a_few_of_every_kind(kind, ground):
    @few
    @given(CASES[kind])
    def hold(case):
        play(case, ground, run)

    hold()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many
@given(case=configs.cases())
def test_200_configs(case, ground):
    play(case, ground, run)


@pytest.mark.parametrize("what", sorted(configs._SPOILT))
def test_every_oddity_of_yaml(what, ground):
    change, refused = configs._SPOILT[what]
    if not refused:
        pytest.skip("trains; among the few of every kind")
    play(Case(configs._base(), spoil=change, refused=True, what=what, codes=(1,)), ground, run)


@pytest.mark.parametrize("override", configs._OVERRIDES)
def test_every_malformed_override(override, ground):
    usage = override.startswith("-")
    play(Case(configs._base(), overrides=(override,), refused=not usage, codes=(2,) if usage else (1,)), ground, run)


def test_every_key_is_walked_and_its_own_reading_agrees_with_the_defaults():
    names = {repr(field) for field in FIELDS}
    assert len(names) == len(FIELDS) > 80
    assert {"training.seed", "reference.model.adapter.merge", "evaluation.judge.url", "plugins.0.sha256"} <= names
    for field in FIELDS:
        assert fits(field.annotation, field.metadata, object()) is False

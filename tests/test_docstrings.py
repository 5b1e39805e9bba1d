from __future__ import annotations

import pytest

import prefopt
from prefopt import docstrings

LOSSES = prefopt.load_registry().losses


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_section_is_found(name):
    found = docstrings.sections(LOSSES[name])
    assert list(found) == ["Formula", *docstrings.SECTIONS]
    assert all(found.values())


def test_hyperparameters_carry_their_ranges():
    fields = {field["name"]: field for field in docstrings.hyperparameters(LOSSES["ipo"])}
    assert fields["tau"] == {"name": "tau", "default": 0.1, "range": "> 0", "tune": [0.01, 1.0]}
    assert fields["length_normalized"]["range"] == "true, false"
    assert docstrings.hyperparameters(LOSSES["sft"])[0]["range"] == "token, sequence, sum"


def test_needs_are_words():
    assert docstrings.needs_in_words(LOSSES["kto"]) == "labels, reference, mismatched, coupled"


def test_a_loss_without_a_closed_form_says_so():
    class Bare(prefopt.PairLoss):
        name = "bare"

        def values(self, batch):
            return batch.chosen.policy

        def reward(self, completions):
            return completions.policy

    assert not docstrings.closed_form(Bare)
    assert docstrings.closed_form(LOSSES["dpo"])
    assert docstrings.arxiv_id(Bare) == ""
    assert docstrings.hyperparameters(Bare) == []


def test_the_recipe_is_told_in_words_and_as_data():
    assert docstrings.recipe_in_words(LOSSES["ipo"]) == []
    rate, length = docstrings.recipe_in_words(LOSSES["simpo"])
    assert "learning rate of 3e-7 to 1e-6" in rate
    assert length == "to keep length out of the reward it compares mean log-probs per token"
    data = docstrings.as_data(LOSSES["simpo"])
    assert (data["learning_rates"], data["on_length"]) == ([3e-7, 1e-6], LOSSES["simpo"].on_length)
    assert docstrings.as_data(LOSSES["ipo"])["learning_rates"] is None

"""Rewards by name: how good a text is."""

from __future__ import annotations

from prefopt.evaluation.text_rewards import Classifier, Reward, vader


def named(name: str) -> Reward:
    """The reward of that name.

    Args:
        name: `vader`, or the folder or Hub id of a sequence classifier.

    Raises:
        ConfigError: vaderSentiment is not installed.
        ModelError: there is no usable classifier at that place.
    """
    return vader() if name == "vader" else Classifier(name)

"""What can be told of a run before any model loads: sentences that warn, each with the numbers that led to it."""

from __future__ import annotations

from prefopt.advice.learning_rate import learning_rate_advice, width_of
from prefopt.advice.lengths import length_advice
from prefopt.advice.settings import settings_advice
from prefopt.config import RunConfig
from prefopt.preparation import Prepared
from prefopt.weighted import Objective


def advice(config: RunConfig, loss: Objective, data: Prepared) -> list[str]:
    """What the user should know of the data and the settings; nothing where all is well. docs/health.md says more.

    Args:
        config: the run's settings.
        loss: the loss they name.
        data: its rows; the training rows are read, or the held-out ones where those of training are streamed.
    """
    return [
        *length_advice(data.train or data.evaluation, loss),
        *settings_advice(loss),
        *learning_rate_advice(config, loss, width_of(config.model)),
    ]

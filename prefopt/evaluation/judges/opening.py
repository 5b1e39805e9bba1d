"""The judge a config asks for."""

from __future__ import annotations

from prefopt.config.evaluation import JudgeConfig
from prefopt.evaluation.judges.comparison import Judge
from prefopt.evaluation.judges.scores import RewardModelJudge, named
from prefopt.evaluation.judges.served import ServedJudge


def open_judge(settings: JudgeConfig, seed: int) -> Judge:
    """Whoever judges, ready to be asked.

    Args:
        settings: who it is.
        seed: of the order in which a served model is shown the answers.

    Raises:
        ConfigError: a package is not installed, or the variable of a key is not set.
        ModelError: there is no reward model at that place.
    """
    if settings.name is not None:
        return named(settings.name)
    if settings.url is not None:
        return ServedJudge(settings, seed)
    assert settings.model is not None
    return RewardModelJudge(settings.model)

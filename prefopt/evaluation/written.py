"""What both models of an evaluation write to the held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from prefopt.config import RunConfig
from prefopt.data.row import Row
from prefopt.errors import ConfigError
from prefopt.evaluation.divergence import divergence, kl_along
from prefopt.evaluation.estimates import mean_of
from prefopt.evaluation.models import Models
from prefopt.evaluation.sampling import end_tokens, sample

Writer = Literal["policy", "reference"]


class Written:
    """Answers of policy and reference, each drawn once."""

    def __init__(self, models: Models, config: RunConfig, prompted: Sequence[Row]) -> None:
        """Draw nothing yet.

        Args:
            models: who writes.
            config: how answers are drawn.
            prompted: the held-out rows whose prompts are answered.
        """
        self._models = models
        self._config = config
        self._prompted = prompted
        self._drawn: dict[tuple[Writer, float, float], list[Row]] = {}

    def texts(self, writer: Writer) -> list[str]:
        """The text of each answer, drawn as the config says.

        Raises:
            ConfigError: an answer may grow longer than the model takes.
        """
        ids = [list(row.completions[0].ids) for row in self._answers(writer)]
        return [str(text) for text in self._models.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def lengths(self) -> dict[str, Any]:
        """Tokens of the policy's answers, and the share that ended before they were cut."""
        ends = end_tokens(self._models.policy(self._prompted).model, self._models.tokenizer)
        ids = [row.completions[0].ids for row in self._answers("policy")]
        return {
            "num_tokens": mean_of(torch.tensor([float(len(own)) for own in ids])).as_dict(),
            "share_ended": sum(own[-1] in ends for own in ids) / len(ids),
        }

    def kl_on_data(self, rows: Sequence[Row]) -> dict[str, Any]:
        """KL(policy || reference) along the completions that the data holds."""
        return self._kl([replace(row, mismatched=()) for row in rows])

    def kl_sampled(self) -> dict[str, Any]:
        """KL(policy || reference) along what the policy writes with its own probabilities, at temperature 1."""
        return self._kl(self._rows("policy", 1.0, 1.0))

    def _kl(self, rows: Sequence[Row]) -> dict[str, Any]:
        policy, reference = self._models.policy(rows), self._models.reference(rows)
        budget = self._config.training.tokens_per_microbatch
        return divergence(kl_along(policy, reference, rows, tokens_per_microbatch=budget), rows)

    def _answers(self, writer: Writer) -> list[Row]:
        return self._rows(writer, self._config.evaluation.temperature, self._config.evaluation.top_p)

    def _rows(self, writer: Writer, temperature: float, top_p: float) -> list[Row]:
        key = (writer, temperature, top_p)
        if key not in self._drawn:
            self._drawn[key] = self._draw(writer, temperature, top_p)
        return self._drawn[key]

    def _draw(self, writer: Writer, temperature: float, top_p: float) -> list[Row]:
        source = self._models.policy if writer == "policy" else self._models.reference
        model = source(self._prompted).model
        settings, training = self._config.evaluation, self._config.training
        longest = max(len(row.prompt) for row in self._prompted) + settings.max_new_tokens
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(limit, int) and 0 < limit < longest:
            raise ConfigError(
                f"evaluation.max_new_tokens = {settings.max_new_tokens} after the longest prompt makes {longest} "
                f"tokens, but the model has {limit} positions; lower it, or data.max_length"
            )
        return sample(
            model,
            self._models.tokenizer,
            [row.prompt for row in self._prompted],
            num_samples=1,
            max_new_tokens=settings.max_new_tokens,
            seed=stream(training.seed, writer),
            temperature=temperature,
            top_p=top_p,
            at_once=max(1, training.tokens_per_microbatch // longest),
        )


def stream(seed: int, writer: Writer) -> int:
    """The seed of a model's draws; two models that drew the same numbers would write alike, and tie too often."""
    return int(np.random.SeedSequence((seed, 0 if writer == "policy" else 1)).generate_state(1)[0] % 2**31)

"""Held-out rows before, during and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefopt.config import RunConfig
from prefopt.data.row import Row
from prefopt.engine.logps import LogpSource, Scorer
from prefopt.engine.ranks import Ranks
from prefopt.evaluation.rewards import HeldOut
from prefopt.evaluation.sampling import complete
from prefopt.watcher import Watcher
from prefopt.weighted import Objective


class DuringTraining:
    """Evaluates the policy as training goes on; does nothing where the config names no held-out rows."""

    def __init__(
        self,
        config: RunConfig,
        loss: Objective,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        watcher: Watcher,
        ranks: Ranks,
    ) -> None:
        """Grow the trees of the rows.

        Args:
            config: of the run.
            loss: whose rewards are measured.
            rows: the held-out rows; none: nothing is measured.
            tokenizer: the policy's.
            watcher: is told what was found.
            ranks: the processes of the run.
        """
        self._settings = config.evaluation
        self._loss = loss
        self._tokenizer = tokenizer
        self._watcher = watcher
        self._prompts = [row.prompt for row in rows[: config.evaluation.samples]]
        self._held_out = None
        if rows:
            budget = config.training.tokens_per_microbatch
            self._held_out = HeldOut(rows, loss, tokens_per_microbatch=budget, ranks=ranks)

    def score_reference(self, reference: LogpSource | None) -> None:
        """Keep the log-probs of the reference that the run begins with."""
        if self._held_out is not None and reference is not None:
            self._held_out.score_reference(reference)

    def before(self, policy: Scorer, *, is_reference: bool) -> dict[str, Any]:
        """What the policy is worth before the first step.

        Args:
            policy: the initial one.
            is_reference: whether it is the very reference that was scored.
        """
        if self._held_out is None:
            return {}
        # A policy that is still its own reference has the same log-probs: one pass serves both.
        same = is_reference and self._loss.needs.distribution is None
        return self.whole("before", None if same else policy) | self._samples(policy)

    def after(self, policy: Scorer, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """What it is worth after the last."""
        return {} if self._held_out is None else self.whole("after", policy, state) | self._samples(policy)

    def whole(self, when: str, policy: Scorer | None, state: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Loss, accuracy and margin over all held-out rows, of which there are some."""
        assert self._held_out is not None
        found = self._held_out.evaluate(policy, state).as_dict()
        self._watcher.evaluated(when, found)
        return found

    def _samples(self, policy: Scorer) -> dict[str, Any]:
        if not self._prompts:
            return {}
        texts = complete(policy.model, self._tokenizer, self._prompts, max_new_tokens=self._settings.max_new_tokens)
        prompts = [self._tokenizer.decode(list(prompt)) for prompt in self._prompts]
        return {
            "samples": [{"prompt": prompt, "completion": text} for prompt, text in zip(prompts, texts, strict=True)]
        }

"""Implicit rewards of a policy on rows whose better completion is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prefopt.data.row import Row
from prefopt.engine.accumulation import evaluate_loss, what_is_wanted
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import LogpSource, Scorer, TokenLogps
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.engine.rewards import RowRewards, reward_margins, row_rewards
from prefopt.evaluation.intervals import wilson
from prefopt.weighted import Objective


@dataclass(frozen=True)
class RewardReport:
    """How a policy ranks the pairs of held-out rows.

    Attributes:
        loss: the reduced loss over all rows.
        num_pairs: pairs with a known better side; 0 for rows that hold none.
        accuracy: weighted mean over rows of the share of pairs whose better completion has the higher reward, a tie
            counting one half; None without pairs.
        interval: the 95 % Wilson interval of `accuracy`, with rows (not the pairs of a ranking) as trials.
        margin: weighted mean over rows of reward(better) - reward(worse), in the loss's own units.
    """

    loss: float
    num_pairs: int
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    margin: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON; what was not measured is left out."""
        named = {
            "loss": self.loss,
            "num_pairs": self.num_pairs,
            "reward_accuracy": self.accuracy,
            "reward_accuracy_interval": self.interval and list(self.interval),
            "reward_margin": self.margin,
        }
        return {name: value for name, value in named.items() if value is not None}


class HeldOut:
    """Held-out rows, with their reference log-probs scored once.

    Attributes:
        assembly: which slot is whose.
    """

    def __init__(
        self, rows: Sequence[Row], loss: Objective, *, tokens_per_microbatch: int, ranks: Ranks = ALONE
    ) -> None:
        """Grow the trees of the rows.

        Args:
            rows: the held-out rows, at least one.
            loss: whose rewards are measured.
            tokens_per_microbatch: memory budget.
            ranks: the processes that share the work.
        """
        self._loss = loss
        self._tokens_per_microbatch = tokens_per_microbatch
        self._ranks = ranks
        self.assembly = Assembly.of(rows, loss)
        self._trees = self.assembly.trees()
        self._source: LogpSource | None = None
        self.reference: TokenLogps | None = None

    def score(self, source: LogpSource) -> TokenLogps:
        """The log-probs of every completion under a model, or as stored."""
        return source.score(self._trees, tokens_per_microbatch=self._tokens_per_microbatch, ranks=self._ranks)

    def score_reference(self, reference: LogpSource) -> None:
        """Keep the reference log-probs of every completion."""
        self._source = reference
        self.reference = self.score(reference)

    def score_policy(self, policy: Scorer) -> TokenLogps:
        """The policy's log-probs of every completion, with what else the loss reads of its distributions."""
        wants = what_is_wanted(self._loss, self._source)
        budget = self._tokens_per_microbatch
        return policy.score(self._trees, tokens_per_microbatch=budget, ranks=self._ranks, wants=wants)

    def evaluate(self, policy: Scorer | None, state: Mapping[str, Tensor] | None = None) -> RewardReport:
        """Loss, accuracy and margin of the policy.

        Args:
            policy: None: the reference itself is the policy, and the loss reads no next-token distributions.
            state: the loss's state, read and left as it is; absent: its initial state.

        Raises:
            NonFiniteLossError: a loss or a margin is not finite; the message names the rows.
        """
        logps = self.reference if policy is None else self.score_policy(policy)
        assert logps is not None, "score_reference comes first where the reference stands for the policy"
        return self.report(logps, state)

    def report(self, logps: TokenLogps, state: Mapping[str, Tensor] | None = None) -> RewardReport:
        """As `evaluate`, of a policy that `score_policy` has scored."""
        total = evaluate_loss(self._loss, self.assembly, logps, self.reference, state)
        rewards = self.rewards(logps)
        if rewards is None:
            return RewardReport(total, 0)
        return RewardReport(
            loss=total,
            num_pairs=rewards.num_pairs,
            accuracy=rewards.accuracy,
            interval=wilson(rewards.accuracy * rewards.num_effective, rewards.num_effective),
            margin=rewards.margin,
        )

    def rewards(self, logps: TokenLogps) -> RowRewards | None:
        """Accuracy and margin of every row that holds pairs; None where none does."""
        return row_rewards(self._loss, self.assembly, logps, self.reference)

    def margins(self, logps: TokenLogps) -> tuple[Tensor, Tensor]:
        """[P] the margin of every pair, and [P] its weight: its row's, shared among the pairs of the row."""
        margins = reward_margins(self._loss, self.assembly, logps, self.reference)
        owners = [self.assembly.owner_of(pair) for pair in self.assembly.preferred]
        counts = Counter(owners)
        return margins, margins.new_tensor([self.assembly.rows[row].weight / counts[row] for row in owners])

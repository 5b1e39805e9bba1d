"""Whether a run goes well: what each step's numbers tell, in at most one sentence for every kind of trouble.

docs/health.md says why each threshold stands where it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import exp, isfinite
from statistics import fmean, median, stdev
from typing import Any

from prefopt.docstrings import rate_in_words
from prefopt.errors import ConfigError
from prefopt.weighted import Objective

WINDOW = 20
"""Steps that a mean is taken over; before so many are done nothing is said."""
MOSTLY = 0.5
"""Share of saturated rows from which most of the batch teaches nothing."""
FAR = 2.0
"""Nats per token that the KL to the reference has to grow by: the log-probs of tokens are then 2 nats off (root mean
square), so a token is some seven times as likely as it was, or as unlikely."""
FALLEN = 0.25
"""Nats per token by which the chosen completions' log-probs have to fall before it is said: their perplexity is 28 %
higher than where it began."""
LOST = 3.0
"""Nats per token by which they fall where a run has diverged: a perplexity twenty times as high is no language."""
CERTAIN = 5.0
"""Standard errors by which the loss has to be higher than where it began."""
RISEN = 0.5
"""Part of its first value by which the loss has to be higher, too."""
SPIKE = 10.0
"""How many times the usual gradient norm is a spike."""


class Health:
    """Follows the numbers of a run.

    Attributes:
        diverged: why the run counts as diverged, a sentence; None while it does not.
    """

    def __init__(self, loss: Objective) -> None:
        """Know nothing yet.

        Args:
            loss: what is trained with.
        """
        self._loss = loss
        self._first: dict[str, float] = {}
        self._early: list[float] = []  # gradient norms of the first WINDOW steps
        self._recent: dict[str, list[float]] = {}
        self._told: list[str] = []
        self.diverged: str | None = None

    def after(self, metrics: Mapping[str, Any]) -> list[str]:
        """What there is to say after a step, each kind of trouble once in a run.

        Args:
            metrics: the step's numbers under the names of metrics.jsonl; what a loss or its rows do not have is absent.
        """
        numbers = _followed(metrics)
        for name, value in numbers.items():
            self._first.setdefault(name, value)
        looks: dict[str, Callable[[], str | None]] = {
            "spike": lambda: self._spike(numbers.get("grad_norm")),  # before the norm is among those it is held against
            "loss": self._rising,
            "lost": self._lost,
            "displaced": self._displaced,
            "far": self._far,
            "saturated": self._saturated,
        }
        told = []
        for kind, look in looks.items():
            if kind == "loss":
                self._remember(numbers)
            found = None if kind in self._told else look()
            if found is None:
                continue
            self._told.append(kind)
            sentence = f"step {metrics['step']}: {found}"
            told.append(sentence)
            if kind in ("loss", "lost"):
                self.diverged = self.diverged or sentence
        return told

    def state_dict(self) -> dict[str, Any]:
        """Everything it has seen, in the types of JSON."""
        return {
            "first": dict(self._first),
            "early": list(self._early),
            "recent": {name: list(values) for name, values in self._recent.items()},
            "told": list(self._told),
            "diverged": self.diverged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            ConfigError: the state is not of this version.
        """
        if set(state) != set(self.state_dict()):
            raise ConfigError(
                f"the checkpoint's state of training.health holds {', '.join(sorted(state)) or 'nothing'}, where "
                f"{', '.join(sorted(self.state_dict()))} belong; it was written by another version"
            )
        self._first = dict(state["first"])
        self._early = list(state["early"])
        self._recent = {name: list(values) for name, values in state["recent"].items()}
        self._told = list(state["told"])
        self.diverged = state["diverged"]

    def _remember(self, numbers: Mapping[str, float]) -> None:
        if len(self._early) < WINDOW and "grad_norm" in numbers:
            self._early.append(numbers["grad_norm"])
        for name, value in numbers.items():
            values = self._recent.setdefault(name, [])
            values.append(value)
            del values[:-WINDOW]

    def _mean(self, name: str) -> float | None:
        """Over the last steps; None before there are enough, and for what this run does not measure."""
        values = self._recent.get(name, [])
        return fmean(values) if len(values) == WINDOW else None

    def _spike(self, norm: float | None) -> str | None:
        values = self._recent.get("grad_norm", [])
        if norm is None or len(values) < WINDOW:  # a step that overflowed in float16 has none
            return None
        # Against the start as well: where most rows are saturated, the usual norm is next to nothing.
        usual = max(median(values), median(self._early))
        if norm <= SPIKE * usual:
            return None
        return (
            f"the gradient norm is {norm:.3g}, {norm / usual:.0f} times its median of {usual:.3g}; look at the rows of "
            "this step, or lower training.max_grad_norm"
        )

    def _rising(self) -> str | None:
        mean = self._mean("loss")
        if mean is None:
            return None
        first, spread = self._first["loss"], stdev(self._recent["loss"])
        # Of one row nothing is known but that it is drawn like the others.
        error = (self._first.get("loss_error", spread) ** 2 + spread**2 / WINDOW) ** 0.5
        rise = mean - first
        if rise <= max(CERTAIN * error, RISEN * abs(first)):
            return None
        errors = f" by {rise / error:.0f} standard errors" if error else ""
        return (
            f"the loss of the last {WINDOW} steps is {mean:.4g}, above the {first:.4g} it began with{errors}: the run "
            f"diverges; {self._remedy()}"
        )

    def _lost(self) -> str | None:
        moved, noise = self._moved("chosen")
        if moved >= -LOST - noise:
            return None
        return (
            f"{_WELL} have lost {-moved:.2f} nats a token since the run began (mean of {WINDOW} steps), a perplexity "
            f"{_times(-moved)} times as high: the policy is losing its language; {self._remedy()}"
        )

    def _displaced(self) -> str | None:
        (chosen, noise), (rejected, _) = self._moved("chosen"), self._moved("rejected")
        if "lost" in self._told or chosen >= -FALLEN - noise or rejected >= 0:
            return None
        return (
            f"{_WELL} fall with the rejected ones, by {-chosen:.2f} and {-rejected:.2f} nats a token (mean of {WINDOW} "
            "steps): likelihood displacement, where probability moves to what is neither (Razin et al. 2024, arXiv "
            "2410.08847); adding the negative log-likelihood of the chosen ones to the loss holds them up, and a lower "
            "training.learning_rate slows it"
        )

    def _far(self) -> str | None:
        kl = self._mean("kl_per_token")
        if kl is None or kl - self._first["kl_per_token"] <= FAR:
            return None
        return (
            f"the KL to the reference on the training rows is {kl:.2f} nats a token (mean of {WINDOW} steps), "
            f"{self._first['kl_per_token']:.2f} at the start: tokens are {_times((2 * kl) ** 0.5)} times as likely as "
            f"under the reference, or as unlikely (root mean square); {self._remedy()}"
        )

    def _saturated(self) -> str | None:
        share = self._mean("saturated")
        if share is None or share <= MOSTLY:
            return None
        margin = self._mean("reward_margin")
        at = "" if margin is None else f" at a reward margin of {margin:.3g}"
        return (
            f"{share:.0%} of rows are saturated{at} (mean of {WINDOW} steps): they have at most 1 % of their gradient "
            "left, and further steps learn from the others alone; stop here, or take a lower training.learning_rate "
            "or a loss or beta that saturates later"
        )

    def _moved(self, side: str) -> tuple[float, float]:
        """Nats per token by which a side's log-probs have risen since the run began, and what chance may add to that.

        Against the reference, rows are held against themselves. Without one, other rows stood in the first batch, and
        three standard deviations from batch to batch may be theirs.
        """
        mean = self._mean(f"{side}_log_ratio")
        if mean is not None:
            return mean - self._first[f"{side}_log_ratio"], 0.0
        name = f"{side}_logps"
        mean = self._mean(name)
        if mean is None:
            return 0.0, 0.0
        # From successive differences, which a trend leaves alone (von Neumann 1941).
        deviation = (fmean((later - sooner) ** 2 for sooner, later in pairwise(self._recent[name])) / 2) ** 0.5
        return mean - self._first[name], 3 * deviation

    def _remedy(self) -> str:
        rate = self._recent.get("learning_rate")
        return "lower training.learning_rate" + (f" (now {rate_in_words(rate[-1])})" if rate else "")


_WELL = "the log-probs of the chosen completions"


def _times(nats: float) -> str:
    """e^nats, short, however large."""
    return f"{exp(nats):.3g}" if nats < 300 else f"e^{nats:.0f}"


def _followed(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that are followed; log-probs per token, so that batches of other lengths compare."""
    names = ("loss", "loss_error", "grad_norm", "learning_rate", "kl_per_token", "saturated", "reward_margin")
    # What is infinite (a reward at the extreme) has no mean.
    finite = {name: value for name, value in metrics.items() if isinstance(value, int | float) and isfinite(value)}
    found = {name: float(finite[name]) for name in names if name in finite}
    for side in ("chosen", "rejected"):
        length = finite.get(f"{side}_length")
        for name in (f"{side}_log_ratio", f"{side}_logps"):
            if length and name in finite:
                found[name] = finite[name] / length
    return found

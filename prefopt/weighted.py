"""A weighted sum of losses over the same rows, each part reduced on its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from prefopt.batch import Completions, PreferenceBatch
from prefopt.errors import ConfigError
from prefopt.loss import Loss, LossOutput, Needs, listed


@dataclass(frozen=True)
class WeightedSum:
    """The objective `sum of weight x loss`, with the face of a single loss.

    Attributes:
        parts: (weight, loss), in the order of the config; the first one's reward is the objective's reward.

    Raises:
        ConfigError: the parts read no kind of rows in common.
    """

    parts: tuple[tuple[float, Loss], ...]

    def __post_init__(self) -> None:
        if not self.needs.rows:
            reads = "; ".join(f"{loss.name} reads {listed(loss.needs.rows)}" for _, loss in self.parts)
            raise ConfigError(f"the parts of a weighted loss must accept the same rows: {reads}")

    @property
    def name(self) -> str:
        """As in `dpo + 0.2 sft`."""
        return " + ".join(loss.name if weight == 1 else f"{weight:g} {loss.name}" for weight, loss in self.parts)

    @property
    def needs(self) -> Needs:
        """What any part needs, over the rows that every part accepts."""
        needs = [loss.needs for _, loss in self.parts]
        distributions = {need.distribution for need in needs}
        return Needs(
            rows=frozenset.intersection(*(frozenset(need.rows) for need in needs)),
            reference=any(need.reference for need in needs),
            scores=any(need.scores for need in needs),
            tokens=any(need.tokens for need in needs),
            distribution="both" if "both" in distributions else "policy" if "policy" in distributions else None,
            mismatched=any(need.mismatched for need in needs),
            coupled=any(need.coupled for need in needs),
            state=any(need.state for need in needs),
        )

    def __call__(self, batch: PreferenceBatch) -> LossOutput:
        """Every part's terms and metrics under `part.name`, so that each term keeps its own normaliser."""
        terms: dict[str, tuple[Tensor, Tensor]] = {}
        metrics: dict[str, Tensor] = {}
        state: dict[str, Tensor] = {}
        for key, (weight, loss) in self._keyed():
            own = None if batch.state is None else _under(key, batch.state)
            output = loss(replace(batch, state=own))
            for term, (values, normaliser) in output.all_terms().items():
                terms[f"{key}.{term}"] = (weight * values, normaliser)
            metrics |= {f"{key}.{name}": value for name, value in output.metrics.items()}
            state |= {f"{key}.{name}": value for name, value in output.state.items()}
        return replace(LossOutput.from_terms(**terms), metrics=metrics, state=state)

    def reward(self, completions: Completions) -> Tensor:
        """The first part's implicit reward [N]."""
        return self.parts[0][1].reward(completions)

    def initial_state(self) -> Mapping[str, Tensor]:
        """Every part's initial state, under the part's key."""
        return {
            f"{key}.{name}": value for key, (_, loss) in self._keyed() for name, value in loss.initial_state().items()
        }

    def _keyed(self) -> list[tuple[str, tuple[float, Loss]]]:
        names = [loss.name for _, loss in self.parts]
        return [
            (name if names.count(name) == 1 else f"{name}_{index}", part)
            for index, (name, part) in enumerate(zip(names, self.parts, strict=True), 1)
        ]


Objective = Loss | WeightedSum


def _under(key: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{key}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

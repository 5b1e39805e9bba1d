"""Random batches for any of the built-in losses, and what the papers say about them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import paper
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from mpmath import mpf
from torch import Tensor

import prefopt

POLICIES = {
    "pairs": ("policy_chosen", "policy_rejected"),
    "demonstrations": ("policy_chosen",),
    "labels": ("policy",),
}
LETTERS = {
    "policy_chosen": "pc",
    "policy_rejected": "pr",
    "reference_chosen": "rc",
    "reference_rejected": "rr",
    "chosen_lengths": "nw",
    "rejected_lengths": "nl",
    "policy": "p",
    "reference": "r",
    "lengths": "n",
}
REGISTRY = prefopt.load_registry()


def runs(max_examples: int) -> settings:
    """That many draws, however slow the machine."""
    return settings(max_examples=max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Example:
    """A loss and the tensors of a batch, under the argument names of its constructor."""

    loss: prefopt.Loss
    kind: str
    inputs: dict[str, Tensor]

    def batch(self, **changed: Tensor) -> prefopt.PreferenceBatch:
        inputs = {**self.inputs, **changed}
        if self.kind == "pairs":
            return prefopt.PreferenceBatch.from_pairs(**inputs)
        if self.kind == "labels":
            return prefopt.PreferenceBatch.from_labels(**inputs)
        renamed = {"policy_chosen": "policy", "chosen_lengths": "lengths"}
        return prefopt.PreferenceBatch.from_demonstrations(
            **{renamed.get(name, name): tensor for name, tensor in inputs.items()}
        )

    @property
    def policies(self) -> tuple[str, ...]:
        """The inputs that the loss differentiates."""
        return POLICIES["demonstrations" if self.loss.name == "sft" else self.kind]

    def to(self, dtype: torch.dtype) -> Example:
        converted = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in self.inputs.items()
        }
        return replace(self, inputs=converted)

    def repeated(self, counts: Tensor) -> Example:
        """Row i `counts[i]` times."""
        return replace(self, inputs={name: t.repeat_interleave(counts, 0) for name, t in self.inputs.items()})

    def losses(self, **changed: Tensor) -> Tensor:
        return self.loss(self.batch(**changed)).losses

    def autograd(self) -> dict[str, Tensor]:
        leaves = {name: self.inputs[name].clone().requires_grad_() for name in self.policies}
        gradients = torch.autograd.grad(self.losses(**leaves).sum(), list(leaves.values()))
        return dict(zip(leaves, gradients, strict=True))

    def closed_form(self) -> dict[str, Tensor]:
        gradient = self.loss.gradient(self.batch())
        found = {name: getattr(gradient, name) for name in ("policy_chosen", "policy_rejected", "policy")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def rows(self) -> list[dict]:
        """The rows as the formulas of `paper` read them."""
        columns = {LETTERS[name]: tensor.tolist() for name, tensor in self.inputs.items() if name in LETTERS}
        rows = [{key: mpf(column[i]) for key, column in columns.items()} for i in range(len(self.batch()))]
        if self.kind == "labels":
            kl = max(mpf(0), self._mean_mismatched())
            for row, desirable in zip(rows, self.inputs["desirable"].tolist(), strict=True):
                row |= {"kl": kl, "desirable": desirable}
        return rows

    def paper_values(self) -> list[mpf]:
        value = paper.VALUES[self.loss.name]
        return [value(row, **self.hyperparameters()) for row in self.rows()]

    def paper_gradients(self) -> dict[str, list[mpf | None]]:
        """None where the derivative does not exist."""
        gradient = paper.GRADIENTS[self.loss.name]
        rows = [gradient(row, **self.hyperparameters()) for row in self.rows()]
        return {name: [row[LETTERS[name]] for row in rows] for name in self.policies}

    def hyperparameters(self) -> dict:
        """The fields of the loss as the formulas of `paper` take them."""
        fields = self.loss.model_dump()
        return {name: mpf(value) if isinstance(value, float) else value for name, value in fields.items()}

    def _mean_mismatched(self) -> mpf:
        policy, reference = (self.inputs[f"mismatched_{side}"].tolist() for side in ("policy", "reference"))
        weights = self.inputs.get("weights", torch.ones(len(policy))).tolist()
        total = sum(mpf(w) * (mpf(p) - mpf(r)) for w, p, r in zip(weights, policy, reference, strict=True))
        return total / sum(map(mpf, weights))


def _between(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


@dataclass(frozen=True)
class Case:
    """One loss with one setting of its options, over one kind of rows."""

    name: str
    kind: str = "pairs"
    options: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        words = [self.name, *(str(value) if isinstance(value, str) else key for key, value in self.options if value)]
        return "-".join(words if self.kind != "demonstrations" else [*words, self.kind])


CASES = [
    Case("dpo"),
    Case("ipo", options=(("length_normalized", False),)),
    Case("ipo", options=(("length_normalized", True),)),
    Case("kto", kind="labels"),
    Case("simpo"),
    *(Case("orpo", options=(("nll", nll),)) for nll in ("sequence", "token", "sum")),
    *(
        Case("sft", kind, (("nll", nll),))
        for kind in ("demonstrations", "pairs")
        for nll in ("token", "sequence", "sum")
    ),
]


@dataclass(frozen=True)
class Scale:
    """How wide the draws are. `WIDE` covers what training meets; `NARROW` keeps every loss off its flat ends."""

    hyperparameter: tuple[float, float]
    gap: float | None  # largest |log-ratio|; None: policy and reference are drawn apart
    mean: tuple[float, float] | None  # range of log-probs per token; None: sums are drawn in [-2000, 0]


WIDE = Scale(hyperparameter=(1e-3, 10.0), gap=None, mean=None)
NARROW = Scale(hyperparameter=(0.05, 1.0), gap=8.0, mean=(-3.0, -0.05))


@st.composite
def examples(draw: st.DrawFn, case: Case, scale: Scale = WIDE) -> Example:
    """A batch of one to four rows in float64, with every input the loss may read and some it must not."""
    num_rows = draw(st.integers(1, 4), label="rows")

    def column(values: st.SearchStrategy) -> list:
        return draw(st.lists(values, min_size=num_rows, max_size=num_rows))

    def completions(certain: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        lengths = torch.tensor(column(st.integers(1, 512)))
        if scale.mean is None:
            logps = _between(-2000.0, -1e-9)
            policy = torch.tensor(column(st.just(0.0) | logps if certain else logps), dtype=torch.float64)
        else:
            policy = torch.tensor(column(_between(*scale.mean)), dtype=torch.float64) * lengths
        if scale.gap is None:
            reference = torch.tensor(column(_between(-2000.0, 0.0)), dtype=torch.float64)
        else:
            reference = policy - torch.tensor(column(_between(-scale.gap, scale.gap)), dtype=torch.float64)
        return policy, reference, lengths

    inputs: dict[str, Tensor] = {}
    if case.kind == "labels":
        inputs["policy"], inputs["reference"], inputs["lengths"] = completions()
        inputs["mismatched_policy"], inputs["mismatched_reference"], _ = completions()
        inputs["desirable"] = torch.tensor(column(st.booleans()))
    else:
        inputs["policy_chosen"], inputs["reference_chosen"], inputs["chosen_lengths"] = completions()
        # A certain rejected completion is infinite under ORPO: a case for the extremes.
        rejected = completions(certain=case.name != "orpo")
        inputs["policy_rejected"], inputs["reference_rejected"], inputs["rejected_lengths"] = rejected
    if case.kind == "demonstrations":
        inputs = {name: inputs[name] for name in ("policy_chosen", "chosen_lengths")}
    if draw(st.booleans(), label="weighted"):
        inputs["weights"] = torch.tensor(column(_between(0.125, 4.0)), dtype=torch.float64)

    cls = REGISTRY.losses[case.name]
    hyperparameters = {
        name: draw(_between(*scale.hyperparameter), label=name)
        for name, info in cls.model_fields.items()
        if info.annotation is float
    }
    return Example(cls(**hyperparameters, **dict(case.options)), case.kind, inputs)

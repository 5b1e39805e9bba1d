"""What the papers say about a case: values and derivatives in 60 digits, from the formulas of the `paper` modules."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, settings
from mpmath import mp, mpf

import prefopt
from prefopt.testing.batches import WIDE, cases, options
from prefopt.testing.case import DIFFERENTIABLE, Case

mp.dps = 60

MODULES = ("paper", "paper_gap", "paper_pairs", "paper_coupled", "paper_tokens")
VALUES = {
    name: value for module in MODULES if find_spec(module) for name, value in import_module(module).VALUES.items()
}

REGISTRY = prefopt.load_registry()
BUILT_IN = sorted(name for name in REGISTRY.losses if REGISTRY.plugin_of(name).name == f"prefopt:{name}")

# Columns of the batch and their letters in the formulas; token columns are lists, one per row.
LETTERS = {
    "policy_chosen": "pc",
    "policy_rejected": "pr",
    "reference_chosen": "rc",
    "reference_rejected": "rr",
    "chosen_lengths": "nw",
    "rejected_lengths": "nl",
    "chosen_scores": "sw",
    "rejected_scores": "sl",
    "mismatched_policy": "mp",
    "mismatched_reference": "mr",
    "desirable": "desirable",
    "undesirable_weight": "uw",
    "weights": "w",
    "scores": "score",
    "chosen_tokens.policy": "tw",
    "chosen_tokens.reference": "rtw",
    "chosen_tokens.reference_kl": "kw",
    "chosen_tokens.log_sum_squares": "qw",
    "rejected_tokens.policy": "tl",
    "rejected_tokens.reference": "rtl",
    "rejected_tokens.reference_kl": "kl",
    "rejected_tokens.log_sum_squares": "ql",
}
LETTERS_OF_KIND = {
    "pairs": LETTERS,
    "demonstrations": {**LETTERS, "policy": "pc", "lengths": "nw", "tokens.policy": "tw"},
    "labels": {**LETTERS, "policy": "p", "reference": "r", "lengths": "n"},
    "rankings": {**LETTERS, "policy": "p", "reference": "r", "lengths": "n"},
}
INPUTS = {
    "policy_chosen": "pc",
    "policy_rejected": "pr",
    "policy": "p",
    "chosen_tokens": "tw",
    "rejected_tokens": "tl",
    "chosen_reference_kl": "kw",
    "rejected_reference_kl": "kl",
}


@dataclass(frozen=True)
class Setting:
    """One built-in loss over one kind of rows with one setting of its options."""

    name: str
    kind: str
    options: dict

    def __str__(self):
        chosen = [str(value) if isinstance(value, str) else key for key, value in self.options.items() if value]
        several = len(REGISTRY.losses[self.name].needs.rows) > 1
        return "-".join([self.name, *chosen, *([self.kind] if several else [])])


SETTINGS = [
    Setting(name, kind, chosen)
    for name in BUILT_IN
    if name in VALUES  # that none lacks one is a test of its own
    for kind in sorted(REGISTRY.losses[name].needs.rows)
    for chosen in options(REGISTRY.losses[name])
]


every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def runs(max_examples: int) -> settings:
    """That many draws, however slow the machine."""
    return settings(max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck))


def random_cases(setting: Setting):
    """Cases of a setting in the state before the first step, which is the one that the formulas know."""
    fixed, loss = setting.options, REGISTRY.losses[setting.name]
    return cases(loss, kind=setting.kind, fixed=fixed, scale=WIDE, carried=False)


def exact(value):
    return value if isinstance(value, bool | str) or value is None else mpf(value)


def rows_of(case: Case) -> list[dict]:
    """The rows as the formulas read them."""
    num_rows, letters = len(case), LETTERS_OF_KIND[case.kind]
    rows = [{"w": mpf(1), "uw": mpf(1)} for _ in range(num_rows)]
    for name, tensor in case.tensors.items():
        if name not in letters:
            continue
        column = tensor.tolist()
        if "." in name:
            offsets = case.tensors[f"{name.partition('.')[0]}.offsets"].tolist()
            column = [column[start:end] for start, end in pairwise(offsets)]
        for row, entry in zip(rows, column, strict=True):
            row[letters[name]] = [*map(exact, entry)] if isinstance(entry, list) else exact(entry)
    draws = case.batch().draws
    longest = 4  # where a loss draws one for each token, completions are short
    for stream in (0, 1):
        numbers = draws.uniform([longest] * num_rows, stream=stream).view(num_rows, longest).tolist()
        for row, own in zip(rows, numbers, strict=True):
            row.setdefault("draws", []).append([*map(mpf, own)])
    return rows


def hyperparameters(loss: prefopt.Loss) -> dict:
    return {name: exact(value) for name, value in loss.model_dump().items()}


def true_values(case: Case, rows: list[dict] | None = None) -> list[mpf]:
    """One number per row."""
    rows = rows_of(case) if rows is None else rows
    return VALUES[case.loss.name](rows, rows, **hyperparameters(case.loss))


def entries(case: Case) -> list[tuple[str, int, int, int | None]]:
    """(input, place in its flattened tensor, row, place in the row's list) of all that may be differentiated."""
    found = []
    for name, tensor in case.inputs.items():
        if name.endswith(("tokens", "reference_kl")):
            argument = name.replace("reference_kl", "tokens") if case.kind == "pairs" else "tokens"
            offsets = case.tensors[f"{argument}.offsets"].tolist()
            spans = enumerate(pairwise(offsets))
            found += [(name, place, row, place - start) for row, (start, end) in spans for place in range(start, end)]
        elif tensor.dim() == 2:
            slots = tensor.shape[1]
            found += [(name, place, place // slots, place % slots) for place in range(tensor.numel())]
        else:
            found += [(name, row, row, None) for row in range(len(tensor))]
    return found


def slope(case: Case, entry, direction: int = 0, rows: list[dict] | None = None) -> mpf:
    """The derivative of the sum of the losses by one entry; statistics that the loss detaches stand still."""
    name, _, row, place = entry
    letter, fixed = INPUTS[name], rows_of(case) if rows is None else rows
    if not case.loss.needs.coupled:
        fixed, row = [fixed[row]], 0
    value, hyper = VALUES[case.loss.name], hyperparameters(case.loss)
    start = fixed[row][letter] if place is None else fixed[row][letter][place]

    def total(x):
        changed = x if place is None else [x if at == place else old for at, old in enumerate(fixed[row][letter])]
        moved = [{**own, letter: changed} if index == row else own for index, own in enumerate(fixed)]
        return mp.fsum(value(moved, fixed, **hyper))

    # A saturated sigmoid is 1 less very little, and it is that little which has a slope; a sum may have one entry that
    # grew to thousands of digits, and another whose slope is of common size.
    size = total(start)
    digits = max(0, mp.mag(size)) // 3 if mp.isfinite(size) else 0
    with mp.workdps(150 + digits):
        return mp.diff(total, start, direction=direction)


# What is left of the difference of two numbers of order 1 that are almost equal for all inputs nearby.
CANCELLING = {"apo_down": 1e-16}


def rounding(case: Case, result) -> torch.Tensor:
    """What float64 may lose to cancellation: how far the result moves when the inputs move in their 13th digit.

    Args:
        case: the case.
        result: from a case to a tensor.
    """
    there, back = (result(_nudged(case, part)) for part in (1e-13, -1e-13))
    return (there - back).abs().nan_to_num(0.0) + CANCELLING.get(case.loss.name, 1e-140)


def _nudged(case: Case, part: float) -> Case:
    """Every log-prob moved by `part` of itself, chosen ones and every second token or slot the other way."""
    moved = {}
    for name, tensor in case.inputs.items():
        signs = torch.full_like(tensor, part).flatten()
        if "tokens" in name or tensor.dim() == 2:
            signs[1::2] *= -1
        key = DIFFERENTIABLE[case.kind][name]
        moved[key] = tensor + tensor * signs.view_as(tensor) * (-1 if "chosen" in name else 1)
    return case.given(**moved)


LOGPS = ("pc", "pr", "p", "tw", "tl")


def below_certainty(rows: list[dict], chosen: mpf, rejected: mpf) -> list[dict]:
    """The rows with every log-prob of 0 that much below it: of chosen completions and even slots, and of the others."""

    def moved(key, value):
        if isinstance(value, list):
            own = {"tw": (chosen, chosen), "tl": (rejected, rejected), "p": (chosen, rejected)}[key]
            return [entry or -own[place % 2] for place, entry in enumerate(value)]
        return value or -(chosen if key in ("pc", "p") else rejected)

    return [{key: moved(key, value) if key in LOGPS else value for key, value in row.items()} for row in rows]

"""Checks of derivatives: closed form, autograd and finite differences say the same, and nothing leaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.differentiate import derivative
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prefopt.docstrings import closed_form as has_closed_form
from prefopt.testing.case import DIFFERENTIABLE, Case
from prefopt.testing.check import Broken, on_cases, unless
from prefopt.testing.compare import must_agree


@on_cases(unless("it has no closed form", has_closed_form), num_examples=40)
def closed_form(case: Case) -> None:
    """The closed form is the gradient that autograd finds."""
    by_hand, automatic = case.closed_form(), case.autograd()
    for name in by_hand:
        if name not in case.inputs:
            raise Broken(f"gradient gives {name}, of which the loss reads nothing in {case.kind}")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in case.inputs.items()}
    must_agree({**zeros, **by_hand}, {**zeros, **automatic}, "closed form {found}, autograd {expected}")


@on_cases(num_examples=10)
def finite_differences(case: Case) -> None:
    """The gradient is the slope of the losses, by finite differences; kinks are left out.

    What a loss detaches is held still where a closed form says that it is meant to be a constant. Without a closed
    form nothing says so, and the slope is that of all the loss computes.
    """
    sources = {"autograd": case.autograd()}
    held = has_closed_form(type(case.loss))
    if held:
        sources["closed form"] = case.closed_form()
    for name, tensor in case.inputs.items():
        slopes = _slopes(case, DIFFERENTIABLE[case.kind][name], held=held)
        known = ~slopes.isnan()
        for source, found in sources.items():
            mine = found.get(name, torch.zeros_like(tensor))
            # Where there is no slope to compare with, it agrees with itself.
            must_agree(
                {name: mine},
                {name: torch.where(known, slopes, mine)},
                source + " {found}, finite differences {expected}",
                rtol=1e-6,
                atol=1e-7,
            )


def _slopes(case: Case, key: str, *, held: bool) -> Tensor:
    """The slope of the summed losses by every entry of one tensor; NaN on a kink, or where no step is small enough."""
    tensor = case.tensors[key]
    flat = tensor.flatten()
    constants: list[Tensor] = []
    with _Detached(constants, replay=False):
        case.output()

    def total(values: Any, places: Any) -> Any:
        found = [
            _total(case, key, flat, float(value), int(place), constants if held else None)
            for value, place in zip(values.flat, np.broadcast_to(places, values.shape).flat, strict=True)
        ]
        return np.array(found).reshape(values.shape)

    places = np.arange(len(flat))
    start = flat.numpy()
    sides = [
        derivative(
            total,
            start,
            args=(places,),
            step_direction=np.full(len(flat), direction),
            initial_step=np.minimum(0.25, np.abs(start) / 2 + 1e-6),
            tolerances={"rtol": 1e-8, "atol": 1e-9},
            order=6,
            maxiter=8,
        )
        for direction in (-1, 1)
    ]
    left, right = (np.where(side.success, side.df, np.nan) for side in sides)
    smooth = np.abs(left - right) <= 1e-6 * np.maximum(np.abs(left), np.abs(right)) + 1e-7
    return torch.from_numpy(np.where(smooth, (left + right) / 2, np.nan)).view_as(tensor)


def _total(case: Case, key: str, flat: Tensor, value: float, place: int, constants: list[Tensor] | None) -> float:
    moved = flat.clone()
    moved[place] = value
    changed = {key: moved.view_as(case.tensors[key])}
    if constants is None:
        return case.output(**changed).losses.sum().item()
    with _Detached(list(constants), replay=True):
        return case.output(**changed).losses.sum().item()


class _Detached(TorchFunctionMode):
    """Records what `detach` returns, or returns what was recorded, one call after the other."""

    def __init__(self, constants: list[Tensor], *, replay: bool) -> None:
        super().__init__()
        self._constants, self._replay = constants, replay

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not Tensor.detach:
            return result
        if not self._replay:
            self._constants.append(result)
            return result
        return self._constants.pop(0) if self._constants else result


@on_cases(unless("it reads nothing of a reference", lambda loss: loss.needs.reference or loss.needs.mismatched))
def reference_gradient(case: Case) -> None:
    """No gradient reaches the reference, mismatched completions or the policy's own distribution."""
    parts = ("reference", "mismatched", "log_sum_squares")
    names = [name for name in case.tensors if any(part in name for part in parts) and "reference_kl" not in name]
    leaves = {
        name: tensor.clone().requires_grad_()
        for name, tensor in case.tensors.items()
        if name in names or name in DIFFERENTIABLE[case.kind].values()
        if tensor.is_floating_point()
    }
    output = case.output(**leaves)
    total = output.losses.sum() + sum(values.sum() for values, _ in output.terms.values())
    if not total.requires_grad:
        return
    watched = [name for name in leaves if name in names]
    for name, gradient in zip(
        watched, torch.autograd.grad(total, [leaves[name] for name in watched], allow_unused=True), strict=True
    ):
        if gradient is not None and gradient.any():
            raise Broken(f"{name} gets a gradient: {gradient.tolist()}")

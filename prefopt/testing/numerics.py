"""Checks of numbers: the ends of what training meets, and precision by precision."""

from __future__ import annotations

import torch
from torch import Tensor

from prefopt.docstrings import closed_form
from prefopt.testing.case import Case
from prefopt.testing.check import Broken, Check, Subject, always, on_cases
from prefopt.testing.compare import gradients, outputs
from prefopt.testing.extremes import extreme_cases, extreme_losses, misfits

_LOW = (torch.float32, torch.bfloat16)


def _on_case(case: Case) -> None:
    """Compare a case in low precision with the same numbers in float64."""
    exact = case.to(torch.float64)
    found = {**outputs(case.output()), **gradients(case)}
    true = {**outputs(exact.output()), **gradients(exact)}
    # With two certain completions a slope may be 0 / 0: any number will do, but a number.
    undecided = _num_certain(case) > 1
    for name, tensor in found.items():
        misfit = misfits(true[name], tensor)
        if name.startswith(("autograd", "closed form")):
            if len(tensor) == len(case):
                rows = undecided if tensor.dim() == 1 else undecided[:, None].expand_as(tensor)
                misfit &= ~rows | tensor.isnan()
            elif undecided.any():
                misfit &= tensor.isnan()
        if misfit.any():
            index = misfit.nonzero()[0].tolist()
            place, dtype = "".join(f"[{at}]" for at in index), str(tensor.dtype).removeprefix("torch.")
            wrong, right = tensor[tuple(index)].item(), true[name][tuple(index)].item()
            raise Broken(f"{name}{place} is {wrong} in {dtype}; in float64 it is {right:.6g}")


def _num_certain(case: Case) -> Tensor:
    """[B] how many log-probs of each row are exactly 0."""
    counts = torch.zeros(len(case), dtype=torch.long)
    for name in ("policy_chosen", "policy_rejected", "policy"):
        if name in case.inputs:
            counts += (case.inputs[name] == 0).view(len(case), -1).sum(1)
    return counts


def _search(subject: Subject) -> None:
    for loss in extreme_losses(subject.loss):
        for dtype in _LOW:
            for case in extreme_cases(loss, dtype):
                try:
                    _on_case(case)
                except Exception as error:
                    raise _narrowed(case, error) from error


def _narrowed(case: Case, error: Exception) -> Broken:
    """The failure with the first single row that shows it; with the whole batch where no row does so alone."""
    for row in range(len(case)):
        try:
            _on_case(case.rows([row]))
        except Exception as alone:
            case, error = case.rows([row]), alone
            break
    broken = error if isinstance(error, Broken) else Broken(f"raised {type(error).__name__}: {error}")
    broken.case = case
    return broken


extremes = Check(
    "extremes",
    "At the ends of float32 and bfloat16 nothing is NaN, and all is finite that fits the dtype",
    always,
    _search,
    _on_case,
)

_LENGTHS = (torch.int64, torch.int32, torch.float64)


@on_cases(num_examples=4)
def shape_and_dtype(case: Case) -> None:
    """Losses, terms, rewards and gradients have one entry per row or input, in the dtype of the policy."""
    for dtype in (torch.float64, *_LOW):
        for kind in _LENGTHS:
            cast = case.to(dtype)
            lengths = {name: tensor.to(kind) for name, tensor in cast.tensors.items() if name.endswith("lengths")}
            _has_shape_and_dtype(cast.given(**lengths), dtype)


def _has_shape_and_dtype(case: Case, dtype: torch.dtype) -> None:
    output = case.output()
    expected = {name: torch.Size([len(case)]) for name in outputs(output)}
    found = outputs(output)
    sources = {"autograd": case.autograd()}
    if closed_form(type(case.loss)):
        sources["closed form"] = case.closed_form()
    for source, entries in sources.items():
        for name, tensor in entries.items():
            found[f"{source} of {name}"] = tensor
            expected[f"{source} of {name}"] = case.inputs[name].shape if name in case.inputs else torch.Size()
    for side, completions in case.batch().sides().items():
        if side != "mismatched":
            found[f"reward of {side}"] = case.loss.reward(completions)
            expected[f"reward of {side}"] = completions.policy.shape
    for name, tensor in found.items():
        if tensor.shape != expected[name]:
            raise Broken(f"{name} has shape {list(tensor.shape)}, not {list(expected[name])}")
        if tensor.dtype != dtype and not name.startswith("metric"):
            raise Broken(f"{name} is {tensor.dtype} where the log-probs are {dtype}")

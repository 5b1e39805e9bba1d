"""Everything a loss says of a case, by name, and the comparison of two such answers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prefopt.docstrings import closed_form
from prefopt.loss import LossOutput
from prefopt.testing.case import Case
from prefopt.testing.check import Broken


def outputs(output: LossOutput) -> dict[str, Tensor]:
    """Losses, terms, metrics: all of shape [B]."""
    found = {"losses": output.losses}
    for name, (values, normaliser) in output.terms.items():
        found |= {f"term {name}": values, f"normaliser of {name}": normaliser}
    return found | {f"metric {name}": value for name, value in output.metrics.items()}


def gradients(case: Case) -> dict[str, Tensor]:
    """Autograd's and the closed form's, each entry in the shape of its input; zeros where it is not read."""
    sources = {"autograd": case.autograd()}
    if closed_form(type(case.loss)):
        sources["closed form"] = case.closed_form()
    return {
        f"{source} of {name}": found.get(name, torch.zeros_like(tensor))
        for source, found in sources.items()
        for name, tensor in case.inputs.items()
    }


def state(output: LossOutput) -> dict[str, Tensor]:
    """The new state."""
    return {f"state {name}": value for name, value in output.state.items()}


def everything(case: Case) -> dict[str, Tensor]:
    """All of the above."""
    output = case.output()
    return {**outputs(output), **state(output), **gradients(case)}


def must_agree(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    words: str,
    *,
    rtol: float = 1e-9,
    atol: float = 1e-11,
) -> None:
    """Compare two answers entry by entry.

    Args:
        found: name -> tensor.
        expected: the same names.
        words: of what is compared, with `{found}` and `{expected}` for the two numbers.
        rtol: allowed error of each entry, relative to it.
        atol: the same, relative to the tensor's largest entry or 1, whichever is more.

    Raises:
        Broken: names the first entry that differs.
    """
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        raise Broken(f"{odd[0]} is there in one of two cases that should give the same")
    for name, tensor in found.items():
        other = expected[name]
        if tensor.shape != other.shape:
            raise Broken(f"{name} has shape {list(tensor.shape)}, not {list(other.shape)}")
        mine, yours = tensor.detach().double(), other.detach().double()
        size = yours[yours.isfinite()].abs().max().clamp(min=1) if yours.isfinite().any() else 1.0
        fine = (mine == yours) | ((mine - yours).abs() <= rtol * yours.abs() + atol * size)
        if not fine.all():
            index = (~fine).nonzero()[0].tolist()
            place = "".join(f"[{at}]" for at in index)
            values = words.format(found=_number(mine[tuple(index)]), expected=_number(yours[tuple(index)]))
            raise Broken(f"{name}{place}: {values}")


def must_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], words: str) -> None:
    """The same to the last bit.

    Raises:
        Broken: names the first entry that differs.
    """
    must_agree(found, expected, words, rtol=0, atol=0)


def differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether any number is another one; two NaN are the same."""
    return one.keys() != other.keys() or any(
        not torch.equal(one[name].nan_to_num(), other[name].nan_to_num()) for name in one
    )


def _number(value: Tensor) -> str:
    return f"{value.item():.10g}"

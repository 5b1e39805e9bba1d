"""A failure as a program: the loss and the batch written out, to paste into a file or an issue."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prefopt.loss import Loss
from prefopt.testing.case import Case


def snippet_of_case(check: str, case: Case) -> str:
    """A program that builds the case and raises what the check found."""
    header, loss = _loss(type(case.loss))
    arguments: list[str] = []
    tokens: dict[str, list[str]] = {}
    for name, tensor in case.tensors.items():
        argument, _, part = name.partition(".")
        if part:
            tokens.setdefault(argument, []).append(f"        {part}={_tensor(tensor)},")
        else:
            arguments.append(f"    {name}={_tensor(tensor)},")
    for argument, parts in tokens.items():
        arguments += [f"    {argument}=prefopt.Tokens(", *parts, "    ),"]
    if case.state is not None:
        arguments += ["    state={", *(f'        "{name}": {_tensor(value)},' for name, value in case.state.items())]
        arguments.append("    },")
    if case.draws is not None:
        draws = case.draws
        arguments.append(f"    draws=prefopt.Draws({draws.row_ids!r}, seed={draws.seed}, step={draws.step}),")
    return "\n".join(
        [
            "import prefopt",
            "import torch",
            "from prefopt.testing import CHECKS",
            *header,
            "",
            f"loss = {loss}({_hyperparameters(case.loss.model_dump())})",
            f"batch = prefopt.PreferenceBatch.from_{case.kind}(",
            *arguments,
            ")",
            f'CHECKS["{check}"].recheck(loss, batch)',
        ]
    )


def snippet_of_class(check: str, loss: type[Loss]) -> str:
    """A program that raises what the check found in the loss."""
    header, name = _loss(loss)
    imports = ["import prefopt"] if name.startswith("prefopt.") else []
    return "\n".join([*imports, "from prefopt.testing import CHECKS", *header, "", f'CHECKS["{check}"]({name})'])


def _loss(loss: type[Loss]) -> tuple[list[str], str]:
    """Import lines, and an expression for the class; a class inside a function is its bare name."""
    module = sys.modules[loss.__module__]
    if module.__name__.startswith("prefopt_plugin_"):  # a plugin file, whose module has no name to import
        return [], f'prefopt.load_registry(["{module.__file__}"]).losses["{loss.name}"]'
    if "<locals>" in loss.__qualname__:
        return [], loss.__name__
    return [f"from {loss.__module__} import {loss.__qualname__}"], loss.__qualname__


def _hyperparameters(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _tensor(tensor: Tensor) -> str:
    """A literal; the dtype is named where it is not what torch would choose."""
    default = {torch.int64, torch.bool} | ({torch.float32} if tensor.is_floating_point() else set())
    dtype = "" if tensor.dtype in default and tensor.numel() else f", dtype={tensor.dtype}"
    return f"torch.tensor({_numbers(tensor.tolist())}{dtype})"


def _numbers(values: Any) -> str:
    if isinstance(values, list):
        return f"[{', '.join(map(_numbers, values))}]"
    finite = isinstance(values, bool | int) or values - values == 0
    return repr(values) if finite else f'float("{values}")'

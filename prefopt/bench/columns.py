"""From rows of a world to what losses read: log-probs, lengths, labels, scores, tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import RowKind
from prefopt.loss import Needs
from prefopt.worlds import Rows, Worlds
from prefopt.worlds.policies import token_logps

# The completions of a row by the side of a batch that they are on.
_SIDES: Mapping[RowKind, Mapping[str, int | slice]] = {
    "pairs": {"chosen": 0, "rejected": 1},
    "labels": {"": 0, "mismatched": 1},
    "rankings": {"": slice(None)},
    "demonstrations": {"": 0},
}


def prepared(rows: Rows, needs: Needs) -> Rows:
    """The rows as a loss with those needs reads them; labels get their mismatched completion where it is read.

    That is the completion of the next row with another prompt, the first row following the last.

    Raises:
        DataError: the loss cannot read such rows.
    """
    read = rows.read_as(needs.rows)
    if not (read.kind == "labels" and needs.mismatched):
        return read
    prompts = read.prompts.numpy()
    starts = np.flatnonzero(prompts != np.roll(prompts, 1))  # where another prompt than the row before's begins
    following = starts[np.searchsorted(starts, np.arange(len(prompts)), side="right") % len(starts)]
    mismatched = read.completions[torch.from_numpy(following)]
    return replace(read, completions=torch.cat([read.completions, mismatched], dim=1))


def columns(worlds: Worlds, rows: Sequence[Rows], next_token_logps: Tensor, needs: Needs) -> dict[str, Any]:
    """The arguments of `PreferenceBatch.from_pairs` and the like, with leading dimensions [T, S].

    A side's tokens are padded tables [T, S, B, depth] (rankings: [T, S, B, K, depth]) by the names of `Tokens`, beside
    their `lengths`.

    Args:
        worlds: [S].
        rows: [S] B rows of each world, as `prepared`.
        next_token_logps: [T, S, P, N, A] of the policies, nats.
        needs: of the loss: what it does not read is left out.
    """
    completions = torch.stack([own.completions for own in rows])  # [S, B, K]
    prompts = torch.stack([own.prompts for own in rows])[..., None].expand_as(completions)
    tables = {
        name: _of_tokens(worlds, table, prompts, completions)
        for name, table in _tables(worlds, next_token_logps, needs).items()
    }
    tables = {name: table.expand_as(tables["policy"]) for name, table in tables.items()}
    values = {name: table.sum(-1) for name, table in tables.items() if name in ("policy", "reference")}
    values["lengths"] = worlds.tree.lengths[completions].expand_as(values["policy"])
    if needs.scores:
        scores = torch.stack([own.scores for own in rows if own.scores is not None])
        values["scores"] = scores.expand_as(values["policy"])

    found: dict[str, Any] = {}
    kind = rows[0].kind
    for side, place in _SIDES[kind].items():
        if place == completions.shape[-1]:
            continue  # labels of which no mismatched completion is read
        found |= {_argument(side, name): value[..., place] for name, value in values.items()}
        if (needs.tokens or needs.distribution) and side != "mismatched":
            tokens = {name: table[..., place, :] for name, table in tables.items()}
            found[_argument(side, "tokens")] = tokens | {"lengths": values["lengths"][..., place]}
    per_row = values["policy"].shape[:3]
    if kind == "labels":
        found["desirable"] = torch.stack([own.desirable for own in rows if own.desirable is not None]).expand(per_row)
    if rows[0].weights is not None:
        weights = torch.stack([own.weights for own in rows if own.weights is not None])
        found["weights"] = weights.to(next_token_logps.dtype).expand(per_row)
    return found


def _argument(side: str, name: str) -> str:
    """As the constructors call it: `policy_chosen` but `chosen_lengths`, `mismatched_policy`, `policy`."""
    if side in ("chosen", "rejected") and name in ("policy", "reference"):
        return f"{name}_{side}"
    return f"{side}_{name}" if side else name


def _tables(worlds: Worlds, next_token_logps: Tensor, needs: Needs) -> dict[str, Tensor]:
    """[T or 1, S, P, N, A] what each action of each prefix has, by the names of `Tokens`."""
    tables = {"policy": next_token_logps}
    reference = worlds.reference.to(next_token_logps.dtype)[None]
    if needs.reference:
        tables["reference"] = reference
    if needs.distribution:
        squares = (2 * next_token_logps.detach()).logsumexp(-1, keepdim=True)
        tables["log_sum_squares"] = squares.expand_as(next_token_logps)
    if needs.distribution == "both":
        chance = reference.exp()
        divergence = torch.where(chance > 0, chance * (reference - next_token_logps), 0.0).sum(-1, keepdim=True)
        tables["reference_kl"] = divergence.expand_as(next_token_logps)
    return tables


def _of_tokens(worlds: Worlds, table: Tensor, prompts: Tensor, completions: Tensor) -> Tensor:
    """[T, S, B, K, depth] what the tokens of completions [S, B, K] find in a table."""
    found = token_logps(worlds.tree.positions, table, prompts.flatten(1), completions.flatten(1))
    return found.reshape(*found.shape[:2], *completions.shape[1:], -1)

"""What a step tells of policy and rows: the numbers of metrics.jsonl that follow from its log-probs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from prefopt.engine.accumulation import StepResult
from prefopt.engine.assembly import Assembly, completions
from prefopt.engine.rewards import row_rewards
from prefopt.errors import PluginError
from prefopt.training.saturation import saturated_rows
from prefopt.weighted import Objective

OWN_METRICS = frozenset(
    (
        "step loss loss_error reward_accuracy reward_margin chosen_reward rejected_reward chosen_log_ratio "
        "rejected_log_ratio chosen_logps rejected_logps kl_per_token chosen_length rejected_length saturated grad_norm "
        "learning_rate num_rows num_tokens step_seconds tokens_per_second peak_memory_bytes peak_cuda_bytes evaluation"
    ).split()
)
"""Names that every step may have; a loss's own metrics take others."""

_GIVEN_BY_LOSSES = frozenset({"chosen_reward", "rejected_reward"})  # `Loss.rewards` of pairs: the same rewards, by pair


@torch.no_grad()
def step_measures(loss: Objective, result: StepResult, state: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """Weighted means over the optimiser batch, all ranks included; docs/tracking.md says what each means.

    Each data row counts with its weight, a row of several pairs with the mean over them. The sums are float64.

    Args:
        loss: one loss or a weighted sum.
        result: of the step.
        state: the loss's state before the step; absent: its initial state.

    Returns:
        Name -> value; a name is absent where the rows or the loss leave it without meaning.

    Raises:
        NonFiniteLossError: a reward margin is NaN; the message names the rows.
        PluginError: the loss returns a metric under one of our names.
    """
    assembly, policy, reference = result.assembly, result.policy, result.reference
    found: dict[str, float] = {}
    rewards = row_rewards(loss, assembly, policy, reference)
    if rewards is not None:
        found |= {"reward_accuracy": rewards.accuracy, "reward_margin": rewards.margin}
    read = completions(policy, reference, with_tokens=loss.needs.tokens)
    columns = {"reward": loss.reward(read), "logps": read.policy}
    if reference is not None:
        columns["log_ratio"] = read.log_ratio
        halves = (policy.tokens - reference.tokens).square() / 2
        columns["kl"] = torch.segment_reduce(halves, "sum", lengths=read.lengths, unsafe=True)
    # One transfer from the device for all of them.
    values = dict(zip(columns, torch.stack(list(columns.values())).cpu().double(), strict=True))
    values["length"] = torch.tensor(policy.lengths, dtype=torch.float64)
    for side, (slots, shares) in _sides(assembly).items():
        of_slots, weights = torch.tensor(slots), torch.tensor(shares, dtype=torch.float64)
        for name in ("reward", "log_ratio", "logps", "length"):
            if name in values:
                found[f"{side}_{name}"] = _mean(values[name][of_slots], weights)
    row_weights = torch.tensor([row.weight for row in assembly.rows], dtype=torch.float64)
    if "kl" in values:
        own = torch.tensor([slot for slots in _own(assembly) for slot in slots])
        weights = row_weights.repeat_interleave(torch.tensor([len(slots) for slots in _own(assembly)]))
        found["kl_per_token"] = float((weights * values["kl"][own]).sum() / (weights * values["length"][own]).sum())
    saturated = saturated_rows(loss, assembly, policy, reference, state)
    if saturated is not None:
        found["saturated"] = _mean(saturated.cpu().double(), row_weights)
    return found | _of_the_loss(loss, result)


def _of_the_loss(loss: Objective, result: StepResult) -> dict[str, float]:
    """The weighted mean over loss rows of each metric the loss returns itself."""
    metrics = {name: values for name, values in result.output.metrics.items() if name not in _GIVEN_BY_LOSSES}
    for name in metrics:
        if name in OWN_METRICS:
            raise PluginError(f"loss {loss.name} returns a metric named {name!r}, which every step has; rename it")
    if not metrics:
        return {}
    assembly = result.assembly
    weights = torch.tensor([assembly.rows[owner].weight for owner in assembly.owners], dtype=torch.float64)
    values = torch.stack([each.to(result.output.losses) for each in metrics.values()]).cpu().double()
    return {name: _mean(each, weights) for name, each in zip(metrics, values, strict=True)}


def _sides(assembly: Assembly) -> dict[str, tuple[Sequence[int], Sequence[float]]]:
    """The slots of the better and of the worse completions, with what each counts."""
    if assembly.preferred:
        owners = [assembly.owner_of(pair) for pair in assembly.preferred]
        counts = Counter(owners)
        shares = [assembly.rows[owner].weight / counts[owner] for owner in owners]
        better, worse = zip(*assembly.preferred, strict=True)
        return {"chosen": (better, shares), "rejected": (worse, shares)}
    alone = [(slot, row) for slot, row in zip(assembly.starts, assembly.rows, strict=True) if len(row.completions) == 1]
    sides = {
        "chosen": [(slot, row.weight) for slot, row in alone if row.desirable is not False],
        "rejected": [(slot, row.weight) for slot, row in alone if row.desirable is False],
    }
    return {side: ([slot for slot, _ in own], [share for _, share in own]) for side, own in sides.items() if own}


def _own(assembly: Assembly) -> list[range]:
    """The slots of each data row's own completions, mismatched ones left out."""
    return [
        range(start, start + len(row.completions)) for start, row in zip(assembly.starts, assembly.rows, strict=True)
    ]


def _mean(values: Tensor, weights: Tensor) -> float:
    return float((weights * values).sum() / weights.sum())

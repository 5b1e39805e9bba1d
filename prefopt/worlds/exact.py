"""What enumeration makes exact: expectations, KLs, the optimum at every KL, exploitability.

Everything takes log-probs of completions [..., C] and leaves the leading dimensions, prompts among them, as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expectation(logps: Tensor, values: Tensor) -> Tensor:
    """[...] the mean of `values` [..., C] under a policy [..., C]."""
    return (logps.exp() * values).sum(-1)


def kl(logps: Tensor, other: Tensor) -> Tensor:
    """[...] KL(policy || other), nats, >= 0; inf where the policy goes where the other never does."""
    probability = logps.exp()
    return torch.where(probability > 0, probability * (logps - other), 0.0).sum(-1)


def optimum(reference: Tensor, reward: Tensor, beta: Tensor | float) -> Tensor:
    """[..., C] log-probs of pi_ref exp(reward / beta) / Z, which no policy beats in reward - beta KL.

    Source:
        Rafailov et al.: Direct Preference Optimization, 2023, arXiv 2305.18290, equation 4.
    """
    return torch.log_softmax(reference + reward / beta, dim=-1)


def frontier(reference: Tensor, reward: Tensor, kls: Tensor) -> Tensor:
    """[...] x [G] the largest mean reward over prompts at each KL: what nobody can beat.

    The best policies for a mean KL over prompts are the optima at one temperature for all prompts; it is found by
    bisection.

    Args:
        reference: [..., P, C] log-probs, nats.
        reward: [..., P, C].
        kls: [G] mean KL(policy || reference) over prompts, nats, >= 0.

    Returns:
        [..., G]; where a KL is more than the greedy policy has, the greedy policy's reward.
    """
    shape = (*reference.shape[:-2], len(kls), 1, 1)
    base, gain = reference.unsqueeze(-3), reward.unsqueeze(-3)  # [..., 1, P, C]
    low, high = torch.full(shape, -12.0, dtype=base.dtype), torch.full(shape, 12.0, dtype=base.dtype)
    for _ in range(60):
        middle = (low + high) / 2  # log beta: a larger one stays closer
        far = kl(optimum(base, gain, middle.exp()), base).mean(-1)[..., None, None] > kls[:, None, None]
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    best = expectation(optimum(base, gain, high.exp()), gain).mean(-1)
    return torch.where(kls > 0, best, expectation(base, gain).mean(-1))


def exploitability(logps: Tensor, preference: Tensor) -> Tensor:
    """[...] by how much the best answer to the policy wins more than half: 0 for a policy that nothing beats."""
    return torch.einsum("...ij,...j->...i", preference, logps.exp()).amax(-1) - 0.5

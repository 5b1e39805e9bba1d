"""The finite tree of all completions of a prompt."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """Every completion over a small alphabet: at each prefix a policy chooses a token or ends the completion.

    A completion has at least one token besides its end; one of `depth` tokens is cut there and carries no end. With V
    tokens there are V + V^2 + ... + V^depth completions (C) of 2 to `depth` scored tokens (1 where depth is 1), and
    1 + V + ... + V^(depth - 1) prefixes (N) at each of which V + 1 actions (A) have a probability; the last is the
    end. The end is impossible at the empty prefix.

    Attributes:
        num_tokens: V, >= 1.
        depth: the most tokens of a completion, >= 1.
    """

    num_tokens: int
    depth: int

    @cached_property
    def prefixes(self) -> tuple[tuple[int, ...], ...]:
        """Every prefix at which there is something to choose, shortest first."""
        return tuple(
            prefix
            for length in range(self.depth)
            for prefix in itertools.product(range(self.num_tokens), repeat=length)
        )

    @cached_property
    def completions(self) -> tuple[tuple[int, ...], ...]:
        """The actions of every completion, its end (`num_tokens`) included where it has one."""
        ended = [(*prefix, self.num_tokens) for prefix in self.prefixes if prefix]
        return (*ended, *itertools.product(range(self.num_tokens), repeat=self.depth))

    @property
    def num_prefixes(self) -> int:
        """N."""
        return len(self.prefixes)

    @property
    def num_completions(self) -> int:
        """C."""
        return len(self.completions)

    @property
    def num_actions(self) -> int:
        """A: the tokens and the end."""
        return self.num_tokens + 1

    @cached_property
    def lengths(self) -> Tensor:
        """[C] int64 scored tokens of each completion."""
        return torch.tensor([len(actions) for actions in self.completions])

    @cached_property
    def positions(self) -> Tensor:
        """[C, depth] int64 place of each token of a completion in a flat [N * A] table; N * A where there is none."""
        index = {prefix: number for number, prefix in enumerate(self.prefixes)}
        nowhere = self.num_prefixes * self.num_actions
        rows = [
            [index[actions[:place]] * self.num_actions + action for place, action in enumerate(actions)]
            for actions in self.completions
        ]
        return torch.tensor([row + [nowhere] * (self.depth - len(row)) for row in rows])

    @cached_property
    def children(self) -> Tensor:
        """[N, A] int64: the prefix that an action leads to; N where it ends the completion."""
        index = {prefix: number for number, prefix in enumerate(self.prefixes)}
        nowhere = self.num_prefixes
        return torch.tensor(
            [
                [index.get((*prefix, token), nowhere) for token in range(self.num_tokens)] + [nowhere]
                for prefix in self.prefixes
            ]
        )

    def next_token_logps(self, logits: Tensor) -> Tensor:
        """[..., N, A] log-probs of the actions at every prefix, from any logits of that shape."""
        first = torch.zeros(self.num_prefixes, self.num_actions, dtype=logits.dtype, device=logits.device)
        first[0, -1] = -torch.inf
        # A row of few actions is slow to reduce; many rows side by side are fast.
        return torch.log_softmax((logits + first).movedim(-1, 0).contiguous(), dim=0).movedim(0, -1)

    def token_logps(self, next_token_logps: Tensor) -> Tensor:
        """[..., C, depth] log-prob of each token of each completion, from [..., N, A]; 0 where there is none."""
        flat = next_token_logps.flatten(-2)
        padded = torch.cat([flat, flat.new_zeros(*flat.shape[:-1], 1)], dim=-1)
        return padded[..., self.positions.to(flat.device)]

    def logps(self, next_token_logps: Tensor) -> Tensor:
        """[..., C] log-prob of each completion, nats; they sum to probability 1.

        >>> tree = Tree(num_tokens=2, depth=3)
        >>> uniform = tree.next_token_logps(torch.zeros(tree.num_prefixes, tree.num_actions))
        >>> tree.num_completions, round(tree.logps(uniform).exp().sum().item(), 6)
        (14, 1.0)
        """
        return self.token_logps(next_token_logps).sum(-1)

    def as_next_token_logps(self, logps: Tensor) -> Tensor:
        """[..., N, A] the policy that gives the completions those log-probs [..., C], up to a constant.

        >>> tree = Tree(num_tokens=2, depth=2)
        >>> wanted = torch.log_softmax(torch.arange(6.0), dim=-1)
        >>> torch.allclose(tree.logps(tree.as_next_token_logps(wanted)), wanted, atol=1e-6)
        True
        """
        # What an action leads to is all completions that begin with it.
        index = {prefix: number for number, prefix in enumerate(self.prefixes)}
        begins = torch.zeros(self.num_prefixes * self.num_actions, self.num_completions, dtype=torch.bool)
        for column, actions in enumerate(self.completions):
            for place, action in enumerate(actions):
                begins[index[actions[:place]] * self.num_actions + action, column] = True
        mass = torch.where(begins, logps[..., None, :], -torch.inf).logsumexp(-1)
        return torch.log_softmax(mass.reshape(*mass.shape[:-1], -1, self.num_actions), dim=-1)

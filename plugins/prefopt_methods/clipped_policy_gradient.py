"""PPO as language models are trained with it, for every trial and world in one program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prefopt import Budget, Trial
from prefopt.worlds import Policies, Tree, Worlds

_CLIP = 0.2
_DISCOUNT = 0.95  # lambda of the advantages; later rewards themselves are not discounted
_NUM_MINIBATCHES = 4
_VALUE_RATE = 0.1
_STREAM = 22  # of random numbers, apart from those that make a world


def train(worlds: Worlds, reward: Tensor, trials: Sequence[Trial], budget: Budget) -> Tensor:
    """PPO with a KL penalty: the clipped objective on tokens, and a learnt value of every prefix.

    A token earns -beta (log pi - log pi_ref) under the policy that drew it, and a completion's last one its reward
    besides. Four minibatches of `batch_size` samples are drawn at a time, each an optimiser step and seen once, as
    Ouyang et al. do with eight; the prompts come in turn. Advantages have mean 0 and deviation 1 over what is drawn
    together. The values start at 0, the mean of a whitened reward. Trials share the noise of their draws.

    Args:
        worlds: [S] where the policies act; the rows are not read.
        reward: [S, P, C] of every completion.
        trials: [T] `learning_rate` of the policy and `beta`, in units of `reward`.
        budget: a `batch_size` of None means as many samples as a world has rows.

    Returns:
        [T, S, K, P, C] float64 log-probs of every completion at the checkpoints, nats.

    Source:
        Schulman, Wolski, Dhariwal, Radford, Klimov: Proximal Policy Optimization Algorithms, 2017, arXiv 1707.06347,
        equation 7; Schulman, Moritz, Levine, Jordan, Abbeel: High-Dimensional Continuous Control Using Generalized
        Advantage Estimation, 2015, arXiv 1506.02438, equation 16; Ouyang et al.: Training language models to follow
        instructions with human feedback, 2022, arXiv 2203.02155, appendix C.4.
    """
    policies = Policies(worlds, [trial["learning_rate"] for trial in trials], budget.steps)
    objective = _Objective(worlds, reward, [trial["beta"] for trial in trials], budget.batch_size)
    return policies.train(objective, budget.checkpoints)


def advantages(rewards: Tensor, values: Tensor, discount: float = _DISCOUNT) -> Tensor:
    """[..., depth] generalised advantages: sums of later surprises, each a factor `discount` less per token between.

    Args:
        rewards: [..., depth] of each token; 0 after the end.
        values: [..., depth] of the prefix before each token; 0 after the end.
        discount: lambda, 0 (one token ahead) to 1 (the whole completion).
    """
    later = torch.zeros_like(values[..., 0])
    surprises = rewards - values
    surprises[..., :-1] += values[..., 1:]
    found = torch.empty_like(values)
    for place in reversed(range(values.shape[-1])):
        later = surprises[..., place] + discount * later
        found[..., place] = later
    return found


def clipped_objective(log_ratio: Tensor, advantage: Tensor, clip: float = _CLIP) -> Tensor:
    """[...] -min(ratio A, clip(ratio) A) of each token: no more is gained once its chance has changed by `clip`.

    Args:
        log_ratio: [...] log-prob less that under the policy that drew the token, nats.
        advantage: [...] A.
        clip: > 0.
    """
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


@dataclass(frozen=True)
class Samples:
    """The tokens of B sampled completions, at most `depth` each.

    Attributes:
        cells: [T, S, B, depth] int64, where a token stands in a flat [P * N * A] table; 0 after the end.
        states: [T, S, B, depth] int64, where the prefix before it stands in a flat [P * N] table; 0 after the end.
        scored: [T, S, B, depth] bool, false after the end.
    """

    cells: Tensor
    states: Tensor
    scored: Tensor

    @classmethod
    def draw(cls, tree: Tree, next_token_logps: Tensor, prompts: Tensor, noise: Tensor) -> Samples:
        """Sample token by token.

        Args:
            tree: of the completions.
            next_token_logps: [T, S, P, N, A], nats.
            prompts: [B].
            noise: [S, depth, B, A] of the standard Gumbel distribution.
        """
        logps = next_token_logps.flatten(2, 3)
        first = prompts * tree.num_prefixes
        prefix = torch.zeros(*logps.shape[:2], len(prompts), dtype=torch.int64)
        scored = torch.ones_like(prefix, dtype=torch.bool)
        tokens = []
        for place in range(tree.depth):
            states = torch.where(scored, first + prefix, 0)
            choices = logps.gather(2, states[..., None].expand(*states.shape, tree.num_actions))
            actions = (choices + noise[:, place]).argmax(-1)  # the largest of log-probs with such noise is a draw
            cells = torch.where(scored, states * tree.num_actions + actions, 0)
            tokens.append((cells, states, scored))
            following = tree.children[prefix, actions]
            scored = scored & (following < tree.num_prefixes)
            prefix = torch.where(scored, following, 0)
        return cls(*(torch.stack(column, dim=-1) for column in zip(*tokens, strict=True)))

    def of_tokens(self, table: Tensor) -> Tensor:
        """[T, S, B, depth] what a table [T, S, P, N, A] says of each token; 0 after the end."""
        return self._at(table, self.cells)

    def of_prefixes(self, table: Tensor) -> Tensor:
        """[T, S, B, depth] what a table [T, S, P, N] says of the prefix before each token; 0 after the end."""
        return self._at(table, self.states)

    def mean(self, values: Tensor) -> Tensor:
        """[T, S] mean over the tokens of [T, S, B, depth] that is 0 after the end."""
        return values.sum((-2, -1)) / self.scored.sum((-2, -1))

    def take(self, rows: slice) -> Samples:
        """Some of the completions."""
        return Samples(self.cells[:, :, rows], self.states[:, :, rows], self.scored[:, :, rows])

    def _at(self, table: Tensor, index: Tensor) -> Tensor:
        return torch.where(self.scored, table.flatten(2).gather(2, index.flatten(2)).view_as(index), 0.0)


class _Objective:
    """What a policy minimises at each step. It draws the samples, and trains the values on the way."""

    def __init__(self, worlds: Worlds, reward: Tensor, betas: Sequence[float], batch_size: int | None) -> None:
        self._tree = tree = worlds.tree
        self._reference = worlds.reference.float()
        self._betas = torch.tensor(betas)[:, None, None, None]
        self._batch_size = batch_size or len(worlds.rows[0])
        # A completion's last token is no other's, so that is where its reward stands.
        last = tree.positions.gather(1, tree.lengths[:, None] - 1)[:, 0]
        self._earned = torch.zeros(self._reference.shape)
        self._earned.flatten(-2)[..., last] = reward.float()
        self._values = torch.zeros(len(betas), *self._reference.shape[:-1], requires_grad=True)
        self._optimizer = torch.optim.Adam([self._values], lr=_VALUE_RATE, fused=True)
        self._generators = [np.random.default_rng((seed, _STREAM)) for seed in worlds.seeds]

    def __call__(self, step: int, next_token_logps: Tensor) -> Tensor:
        """[T, S] from [T, S, P, N, A]."""
        rollout, place = divmod(step, _NUM_MINIBATCHES)
        if place == 0:
            self._draw(rollout, next_token_logps.detach())
        rows = slice(place * self._batch_size, (place + 1) * self._batch_size)
        samples = self._samples.take(rows)

        error = samples.of_prefixes(self._values) - self._returns[:, :, rows]
        self._optimizer.zero_grad()
        torch.autograd.backward(samples.mean(error.square()).sum())
        self._optimizer.step()

        log_ratio = samples.of_tokens(next_token_logps) - self._logps[:, :, rows]
        return samples.mean(clipped_objective(log_ratio, self._advantages[:, :, rows]))

    def _draw(self, rollout: int, next_token_logps: Tensor) -> None:
        """New samples from the policies as they are, and how much better than expected each token was."""
        num_samples, num_prompts = _NUM_MINIBATCHES * self._batch_size, self._earned.shape[1]
        prompts = torch.arange(rollout * num_samples, (rollout + 1) * num_samples) % num_prompts
        size = (self._tree.depth, num_samples, self._tree.num_actions)
        noise = np.stack([generator.gumbel(size=size) for generator in self._generators])
        samples = Samples.draw(self._tree, next_token_logps, prompts, torch.from_numpy(noise).float())

        logps = samples.of_tokens(next_token_logps)
        reference, earned = (
            samples.of_tokens(table.expand_as(next_token_logps)) for table in (self._reference, self._earned)
        )
        rewards = earned - self._betas * (logps - reference)
        values = samples.of_prefixes(self._values.detach())
        advantage = advantages(rewards, values)
        self._returns = advantage + values
        centred = torch.where(samples.scored, advantage - samples.mean(advantage)[..., None, None], 0.0)
        deviation = samples.mean(centred.square()).sqrt()[..., None, None]
        self._advantages = centred / (deviation + 1e-8)
        self._samples, self._logps = samples, logps

"""A world whose truth is known: reference, reward and preferences over every completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prefopt.task import Knob
from prefopt.worlds import exact
from prefopt.worlds.rows import Rows
from prefopt.worlds.sampling import draw_rows
from prefopt.worlds.tree import Tree

Sampler = Callable[[np.random.Generator, int], Rows]

_REFERENCE, _REWARD, _ROWS = range(3)  # streams of random numbers that do not touch each other


@dataclass(frozen=True)
class World:
    """P prompts over one tree of completions. Everything is in float64.

    Attributes:
        tree: the completions of every prompt.
        reference: [P, N, A] log-probs of the reference's actions, nats.
        reward: [P, C] the true reward, in nats of preference: a gap of r is preferred with probability sigmoid(r).
        sampler: gives rows as the annotators would, from a generator and a number of rows.
        num_rows: how many rows a method gets.
        max_kl: up to which KL(policy || reference) frontiers are compared, nats.
        rank: of the policies that learn here: None is a table, which can be any policy; a small rank ties the prompts
            together, so that the optimum is out of reach.
        preference: [P, C, C] the true chance that the first completion is preferred to the second; None where it is
            sigmoid(reward of the first - reward of the second).
    """

    knobs: ClassVar = MappingProxyType(
        {
            "num_prompts": Knob(8, "prompts", ge=1),
            "num_tokens": Knob(2, "tokens of the alphabet, besides the end", ge=1),
            "depth": Knob(6, "the most tokens of a completion", ge=1),
            "num_rows": Knob(1024, "rows of training data", ge=1),
            "rank": Knob(None, "rank of the policies' logits over prompts; none: any policy", ge=1),
        }
    )

    tree: Tree
    reference: Tensor
    reward: Tensor
    sampler: Sampler
    num_rows: int
    max_kl: float = 3.0
    rank: int | None = None
    preference: Tensor | None = None

    @classmethod
    def draw(
        cls,
        seed: int,
        *,
        num_prompts: int = 8,
        num_tokens: int = 2,
        depth: int = 6,
        num_rows: int = 1024,
        rank: int | None = None,
        reward_scale: float = 1.0,
    ) -> World:
        """A random, well-specified world: pairs of the reference's own completions, preferred by Bradley and Terry.

        The reward is a sum of effects of the tokens, each in its context and smaller the later it comes, with a rest
        that is the completion's own. For each prompt it has mean 0 and standard deviation `reward_scale` under the
        reference.

        Args:
            seed: of reference, reward and rows.
            num_prompts, num_tokens, depth, num_rows, rank: as in `World.knobs`.
            reward_scale: standard deviation of the reward, nats.
        """
        tree = Tree(num_tokens, depth)
        generator = np.random.default_rng((seed, _REFERENCE))
        logits = torch.from_numpy(generator.normal(size=(num_prompts, tree.num_prefixes, tree.num_actions)))
        reference = tree.next_token_logps(logits)

        generator = np.random.default_rng((seed, _REWARD))
        effects = torch.from_numpy(generator.normal(size=logits.shape))
        effects = effects * torch.tensor([0.7 ** len(prefix) for prefix in tree.prefixes])[:, None]
        own = torch.from_numpy(generator.normal(size=(num_prompts, tree.num_completions)))
        reward = tree.logps(effects) + 0.5 * own
        world = cls(tree, reference, reward, cls._none, num_rows, rank=rank)
        return world.rewarded(reward, reward_scale).annotated()

    @staticmethod
    def _none(generator: np.random.Generator, num_rows: int) -> Rows:
        raise AssertionError("a world needs a sampler")

    @property
    def logps(self) -> Tensor:
        """[P, C] log-probs of the completions under the reference, nats."""
        return self.tree.logps(self.reference)

    def preferences(self) -> Tensor:
        """[P, C, C] the true chance that the first completion is preferred to the second."""
        if self.preference is not None:
            return self.preference
        return (self.reward[:, :, None] - self.reward[:, None, :]).sigmoid()

    def rewarded(self, reward: Tensor, scale: float) -> World:
        """The world with another reward [P, C], shifted and scaled to mean 0 and that deviation under the reference."""
        centred = reward - exact.expectation(self.logps, reward)[:, None]
        deviation = exact.expectation(self.logps, centred.square()).sqrt()
        return replace(self, reward=scale * centred / deviation[:, None])

    def referred(self, reference: Tensor) -> World:
        """The world with another reference [P, N, A], and its reward shifted and scaled anew to the same deviation."""
        centred = self.reward - exact.expectation(self.logps, self.reward)[:, None]
        deviation = exact.expectation(self.logps, centred.square()).sqrt().mean().item()
        return replace(self, reference=reference).rewarded(self.reward, deviation)

    def annotated(
        self,
        *,
        behaviour: Tensor | None = None,
        utility: Tensor | None = None,
        num_completions: int = 2,
        flipped: float = 0.0,
    ) -> World:
        """The world with annotators who compare completions as `draw_rows` says.

        Args:
            behaviour: [P, C] log-probs of who writes the completions; None: the reference.
            utility: [P, C] what the annotators go by; None: the reward.
            num_completions: K.
            flipped: the share of rows turned upside down.
        """
        writes = self.logps if behaviour is None else behaviour
        goes_by = self.reward if utility is None else utility

        def sampler(generator: np.random.Generator, num_rows: int) -> Rows:
            return draw_rows(generator, num_rows, writes, goes_by, num_completions=num_completions, flipped=flipped)

        return replace(self, sampler=sampler)

    def enumerated(self) -> World:
        """The world whose rows are all ordered pairs, each with the chance that it is drawn and so decided as weight.

        The reference writes and Bradley and Terry's model decides, by the true preferences, so the mean loss over
        these rows is the expected loss, without sampling error.
        """
        chance = self.logps.exp()
        weights = chance[:, :, None] * chance[:, None, :] * self.preferences()
        num_prompts, num_completions = chance.shape
        index = torch.stack(
            torch.meshgrid(*map(torch.arange, (num_prompts, num_completions, num_completions)), indexing="ij")
        )
        prompts, first, second = index.flatten(1)[:, (index[1] != index[2]).flatten()]
        pairs = Rows("pairs", prompts, torch.stack([first, second], dim=1), weights=weights[prompts, first, second])
        return replace(self, sampler=lambda generator, num_rows: pairs, num_rows=len(pairs))

    def rows(self, seed: int) -> Rows:
        """The `num_rows` rows that a method gets in the run of that seed."""
        return self.sampler(np.random.default_rng((seed, _ROWS)), self.num_rows)


@dataclass(frozen=True)
class Worlds:
    """S worlds of one shape, one for each seed, so that all seeds are trained and measured in one program.

    Attributes:
        tree: of all of them.
        reference: [S, P, N, A] log-probs of the references' actions, nats.
        reward: [S, P, C] the true rewards.
        rows: each world's rows.
        seeds: [S] the seed of each.
        max_kl: as in `World`.
        rank: as in `World`.
        worlds: one by one.
    """

    tree: Tree
    reference: Tensor
    reward: Tensor
    rows: tuple[Rows, ...]
    seeds: tuple[int, ...]
    max_kl: float
    rank: int | None
    worlds: tuple[World, ...]

    @classmethod
    def of(cls, worlds: Sequence[World], seeds: Sequence[int]) -> Worlds:
        """Stack them."""
        first = worlds[0]
        return cls(
            first.tree,
            torch.stack([world.reference for world in worlds]),
            torch.stack([world.reward for world in worlds]),
            tuple(world.rows(seed) for world, seed in zip(worlds, seeds, strict=True)),
            tuple(seeds),
            first.max_kl,
            first.rank,
            tuple(worlds),
        )

    @property
    def logps(self) -> Tensor:
        """[S, P, C] log-probs of the completions under the references, nats."""
        return self.tree.logps(self.reference)

"""A reference that follows the policy (TR-DPO: Gorbatovski et al., arXiv 2404.09656)."""

from __future__ import annotations

import torch
from torch import nn

from prefopt.engine.adapted import wrapper_of
from prefopt.engine.logps import Scorer
from prefopt.errors import ModelError


class MovingReference:
    """Draws the reference's weights towards the policy's every so many steps.

    Attributes:
        moved: the parameters that change, by name.
    """

    def __init__(self, policy: nn.Module, reference: nn.Module, *, every: int, weight: float) -> None:
        """Pair the parameters.

        Args:
            policy: the model in training.
            reference: a model of the same architecture, moved in place.
            every: steps between two moves.
            weight: share of the policy in the new reference, in (0, 1]; 1 copies it (a hard update).

        Raises:
            ModelError: the models differ in architecture, or adapters would be mixed.
        """
        own, other = dict(policy.named_parameters()), dict(reference.named_parameters())
        if {name: each.shape for name, each in own.items()} != {name: each.shape for name, each in other.items()}:
            raise ModelError(
                "reference.update_steps draws the reference towards the policy, but reference.model has another "
                "architecture; leave it out, or name a model of the same one"
            )
        if weight < 1 and isinstance(policy, Scorer) and wrapper_of(policy.model) is not None:
            raise ModelError(
                "reference.update_weight below 1 would mix the factors of an adapter one by one, which is no share of "
                "the policy; set it to 1, or train all weights"
            )
        # Frozen weights may be the policy's own: neither moves.
        self._pairs = [(other[name], each) for name, each in own.items() if other[name] is not each]
        self.moved = {name: other[name] for name, each in own.items() if other[name] is not each}
        self._every = every
        self._weight = weight

    @torch.no_grad()
    def after_step(self, number: int) -> None:
        """Move the reference where step `number`, counted from 1, is one to move after."""
        if number % self._every == 0:
            for reference, policy in self._pairs:
                reference.lerp_(policy.to(reference.dtype), self._weight)

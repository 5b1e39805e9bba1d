"""Rewards on one scale, so that one range of beta suits every world."""

from torch import Tensor

from prefopt.worlds import exact


def whitened(reward: Tensor, reference: Tensor) -> Tensor:
    """[S, P, C] the reward with mean 0 and standard deviation 1 over a world's completions under the reference.

    Args:
        reward: [S, P, C]; one that is the same everywhere becomes 0.
        reference: [S, P, C] log-probs, nats.
    """
    centred = reward - exact.expectation(reference, reward).mean(-1)[:, None, None]
    deviation = exact.expectation(reference, centred.square()).mean(-1).sqrt()
    return centred / deviation.clamp(min=1e-12)[:, None, None]

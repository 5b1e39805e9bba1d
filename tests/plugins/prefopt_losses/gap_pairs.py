"""Pairs given by their log-ratios, for the losses that read little else."""

import torch

import prefopt

REGISTRY = prefopt.load_registry()
REFERENCE = -50.0


def pairs(chosen, rejected, lengths=(1, 1), scores=None):
    """A batch in float64.

    Args:
        chosen, rejected: the log-ratios of each pair.
        lengths: scored tokens of all chosen and of all rejected completions.
        scores: of the chosen and of the rejected completion, a list each; None: none.
    """
    chosen, rejected = (torch.tensor(values, dtype=torch.float64) for values in (chosen, rejected))
    extra = {}
    if scores is not None:
        names = ("chosen_scores", "rejected_scores")
        extra = {name: torch.tensor(own, dtype=torch.float64) for name, own in zip(names, scores, strict=True)}
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=REFERENCE + chosen,
        policy_rejected=REFERENCE + rejected,
        reference_chosen=torch.full_like(chosen, REFERENCE),
        reference_rejected=torch.full_like(rejected, REFERENCE),
        chosen_lengths=torch.full((len(chosen),), lengths[0]),
        rejected_lengths=torch.full((len(rejected),), lengths[1]),
        **extra,
    )


def losses(name, batch, **hyperparameters):
    """The loss of each pair."""
    return REGISTRY.loss(name, **hyperparameters)(batch).losses.tolist()


def slopes(name, batch, **hyperparameters):
    """The closed form by each chosen and by each rejected log-prob."""
    gradient = REGISTRY.loss(name, **hyperparameters).gradient(batch)
    return gradient.policy_chosen.tolist(), gradient.policy_rejected.tolist()


def autograd(name, batch, **hyperparameters):
    """What autograd makes of the losses: by each chosen and by each rejected log-prob."""
    leaves = [side.policy.clone().requires_grad_() for side in (batch.chosen, batch.rejected)]
    batch = prefopt.PreferenceBatch.from_pairs(
        policy_chosen=leaves[0],
        policy_rejected=leaves[1],
        reference_chosen=batch.chosen.reference,
        reference_rejected=batch.rejected.reference,
        chosen_lengths=batch.chosen.lengths,
        rejected_lengths=batch.rejected.lengths,
    )
    REGISTRY.loss(name, **hyperparameters)(batch).losses.sum().backward()
    return tuple(leaf.grad.tolist() for leaf in leaves)

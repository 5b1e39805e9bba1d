"""The hinge loss of statistical rejection sampling optimisation."""

import torch
from torch import Tensor

import prefopt


class RSOHinge(prefopt.PairLoss):
    """How far the implicit reward of the chosen completion is from exceeding the rejected one's by 1.

    loss = max(0, 1 - margin), margin = beta * (log_ratio_chosen - log_ratio_rejected)

    gradient: d/d chosen = -beta where margin < 1, else 0; d/d rejected = the negative

    Args:
        beta: strength of the pull towards the reference, > 0; the gap is pulled up to 1 / beta nats, never beyond. The
            paper calls it gamma and uses 0.05.

    Returns:
        [B] one value per pair, in units of reward, >= 0; 1 where the policy equals the reference.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Liu et al.: Statistical Rejection Sampling Improves Preference Optimization, 2023, arXiv 2309.06657, the
        definition of the hinge-norm loss.

    Differs:
        no. It is the loss alone: the paper draws its pairs by rejection sampling, which is a matter of the data, and
        its sigmoid-norm loss is `dpo`. TRL calls this one `hinge` and attributes it to SLiC-HF, whose own loss has no
        reference (`slic`); its default beta is 0.1.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("rso_hinge", beta=0.05)(batch).losses
        tensor([0.8500])
    """

    name = "rso_hinge"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    beta: float = prefopt.field(0.05, gt=0, tune=(0.01, 1.0))

    def _shortfall(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return 1 - self.beta * batch.gap

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """What the margin lacks to 1."""
        return torch.relu(self._shortfall(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """The same for every pair whose margin is below 1, none for the others."""
        shortfall = self._shortfall(batch)
        weight = self.beta * (shortfall > 0).to(shortfall.dtype)
        return prefopt.Gradient(policy_chosen=-weight, policy_rejected=weight)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `rso_hinge`."""
    return [RSOHinge]

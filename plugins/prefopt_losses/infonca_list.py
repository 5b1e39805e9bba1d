"""InfoNCA on rankings."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class InfoNCAList(prefopt.RankingLoss):
    """The cross-entropy between the softmax of the scores and the softmax of the implicit rewards.

    loss = -sum over i of t_i * log(e^R_i / sum over j of e^R_j), t = softmax(scores / alpha), R = beta * log_ratio

    gradient: d/d logp_i = beta * (softmax(R)_i - t_i)

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.01.
        alpha: temperature of the scores, > 0, in their units; towards 0 the best completion takes all of t.

    Returns:
        [B] one value per ranking, nats, >= 0; ln K where the policy equals the reference. Absent slots do not count,
        and a lone completion has loss 0.

    Raises:
        ConfigError: `beta` or `alpha` is not above 0.

    Source:
        Chen et al.: Noise Contrastive Alignment of Language Models with Explicit Rewards, 2024, arXiv 2402.05369, the
        definition of InfoNCA.

    Differs:
        no. With two completions and t = (1, 0) it is `dpo`.

    Example:
        >>> import torch, prefopt
        >>> batch = prefopt.PreferenceBatch.from_rankings(
        ...     policy=torch.tensor([[-12.0, -10.0, -14.0]]), reference=torch.tensor([[-12.0, -11.0, -12.0]]),
        ...     lengths=torch.tensor([[6, 5, 7]]), scores=torch.tensor([[5.0, 9.0, 1.0]]))
        >>> prefopt.get_loss("infonca_list", beta=0.1)(batch).losses
        tensor([0.9748])
    """

    name = "infonca_list"
    needs = prefopt.Needs(rows={"rankings"}, reference=True, scores=True)
    # Where scores differ by 1 or more, this alpha leaves e^-1000, a plain 0, to the worse completion.
    relations = (prefopt.Relation("dpo", where={"alpha": 1e-3}, num_completions=2),)
    beta: float = prefopt.field(0.01, gt=0, tune=(0.001, 0.1))
    alpha: float = prefopt.field(1.0, gt=0, tune=(0.1, 10.0))

    def _target(self, completions: prefopt.Completions) -> Tensor:
        assert completions.scores is not None
        weighed = (completions.scores.double() / self.alpha).masked_fill(completions.lengths == 0, -torch.inf)
        return weighed.softmax(-1).to(completions.policy.dtype)

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """The log-softmax of i is log sigmoid of its reward against all others, which keeps small losses exact."""
        completions = batch.completions
        rewards, present = self.reward(completions), completions.lengths > 0
        itself = torch.eye(rewards.shape[1], dtype=torch.bool, device=rewards.device)
        others = present[:, :, None] & present[:, None, :] & ~itself
        deficits = rewards[:, None, :] - rewards[:, :, None]
        # Not -inf: a lone completion would have no softmax.
        deficits = deficits.masked_fill(~others, torch.finfo(deficits.dtype).min)
        return -(self._target(completions) * logsigmoid(-deficits.logsumexp(-1))).sum(-1)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """softmax(R) - t, written as what i gains from each j less what it loses to it: 1 - 1 would cancel."""
        completions = batch.completions
        rewards = self.reward(completions).masked_fill(completions.lengths == 0, -torch.inf)
        flow = self._target(completions)[:, None, :] * rewards.softmax(-1)[:, :, None]
        return prefopt.Gradient(policy=self.beta * (flow - flow.mT).sum(-1))

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `infonca_list`."""
    return [InfoNCAList]

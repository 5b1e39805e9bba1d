"""Noise contrastive alignment on rankings."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class NCAList(prefopt.RankingLoss):
    """The noise-contrastive cross-entropy of each completion's implicit reward, weighed by the softmax of the scores.

    loss = -sum over i of (t_i * log sigmoid(R_i) + (1 / K) * log sigmoid(-R_i))
    t = softmax(scores / alpha), R = beta * log_ratio, K = number of completions

    gradient: d/d logp_i = beta * (sigmoid(R_i) / K - t_i * sigmoid(-R_i))

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.01.
        alpha: temperature of the scores, > 0, in their units; towards 0 the best completion takes all of t.

    Returns:
        [B] one value per ranking, nats, >= 0; 2 ln 2 where the policy equals the reference. Absent slots do not
        count, neither in t nor in K.

    Raises:
        ConfigError: `beta` or `alpha` is not above 0.

    Source:
        Chen et al.: Noise Contrastive Alignment of Language Models with Explicit Rewards, 2024, arXiv 2402.05369, the
        definition of NCA.

    Differs:
        no. With two completions and t = (1, 0) it is `nca_pair`.

    Example:
        >>> import torch, prefopt
        >>> batch = prefopt.PreferenceBatch.from_rankings(
        ...     policy=torch.tensor([[-12.0, -10.0, -14.0]]), reference=torch.tensor([[-12.0, -11.0, -12.0]]),
        ...     lengths=torch.tensor([[6, 5, 7]]), scores=torch.tensor([[5.0, 9.0, 1.0]]))
        >>> prefopt.get_loss("nca_list", beta=0.1)(batch).losses
        tensor([1.3239])
    """

    name = "nca_list"
    needs = prefopt.Needs(rows={"rankings"}, reference=True, scores=True)
    # Where scores differ by 1 or more, this alpha leaves e^-1000, a plain 0, to the worse completion.
    relations = (prefopt.Relation("nca_pair", where={"alpha": 1e-3}, num_completions=2),)
    beta: float = prefopt.field(0.01, gt=0, tune=(0.001, 0.1))
    alpha: float = prefopt.field(1.0, gt=0, tune=(0.1, 10.0))

    def _rewards_targets_shares(self, batch: prefopt.PreferenceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Each [B, K]: R, t and 1 / K; all 0 in absent slots."""
        completions = batch.completions
        assert completions.scores is not None
        rewards, absent = self.reward(completions), completions.lengths == 0
        weighed = (completions.scores.double() / self.alpha).masked_fill(absent, -torch.inf)
        present = (~absent).to(rewards.dtype)
        shares = present / present.sum(-1, keepdim=True)
        return rewards.masked_fill(absent, 0.0), weighed.softmax(-1).to(rewards.dtype), shares

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """Each completion is told from noise: as data with weight t, as noise with weight 1 / K."""
        rewards, targets, shares = self._rewards_targets_shares(batch)
        return -(targets * logsigmoid(rewards) + shares * logsigmoid(-rewards)).sum(-1)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Zero where sigmoid(R) / sigmoid(-R) = K t: the reward is absolute, not relative to the others."""
        rewards, targets, shares = self._rewards_targets_shares(batch)
        return prefopt.Gradient(policy=self.beta * (shares * rewards.sigmoid() - targets * (-rewards).sigmoid()))

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `nca_list`."""
    return [NCAList]

"""DPO under the Plackett-Luce model of rankings."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class PLDPO(prefopt.RankingLoss):
    """The negative log-likelihood of the whole ranking under the policy's implicit reward.

    loss = -sum over k of log(e^s_k / sum over j >= k of e^s_j), s = beta * log_ratio, best completion first

    gradient: d/d s_i = sum over k <= i of softmax(s_k, s_k+1, ...)_i - 1 (no - 1 for the last); times beta for the
    log-prob.

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.1 for pairs.

    Returns:
        [B] one value per ranking, nats, >= 0; ln K! where the policy equals the reference. The scores give the order
        alone. Absent slots do not count, and a lone completion has loss 0.

    Raises:
        ConfigError: `beta` is not above 0.
        ValueError: two completions of one ranking have equal scores.

    Source:
        Rafailov et al.: Direct Preference Optimization: Your Language Model is Secretly a Reward Model, 2023,
        arXiv 2305.18290, appendix A.3, the DPO objective under the Plackett-Luce model.

    Differs:
        no. With two completions it is `dpo`.

    Example:
        >>> import torch, prefopt
        >>> batch = prefopt.PreferenceBatch.from_rankings(
        ...     policy=torch.tensor([[-12.0, -10.0, -14.0]]), reference=torch.tensor([[-12.0, -11.0, -12.0]]),
        ...     lengths=torch.tensor([[6, 5, 7]]), scores=torch.tensor([[0.5, 0.9, 0.1]]))
        >>> prefopt.get_loss("pl_dpo", beta=0.1)(batch).losses
        tensor([1.5711])
    """

    name = "pl_dpo"
    needs = prefopt.Needs(rows={"rankings"}, reference=True, scores=True)
    relations = (prefopt.Relation("dpo", num_completions=2),)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))

    def _deficits(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """[B, K, K] reward of j less that of i where j ranks below i; elsewhere so low that e^ it is 0."""
        scores, present = batch.completions.scores, batch.completions.lengths > 0
        assert scores is not None
        both = present[:, :, None] & present[:, None, :]
        tied = (both & (scores[:, :, None] == scores[:, None, :])).sum((1, 2)) > present.sum(1)
        if tied.any():
            rows = ", ".join(map(str, tied.nonzero()[:, 0].tolist()))
            raise ValueError(
                f"loss pl_dpo: completions with equal scores at batch position {rows}; a Plackett-Luce ranking is "
                "strict, so give each completion of a ranking a score of its own"
            )
        rewards = self.reward(batch.completions)
        deficits = rewards[:, None, :] - rewards[:, :, None]
        below = both & (scores[:, None, :] < scores[:, :, None])
        # Not -inf: a row of them has no softmax.
        return deficits.masked_fill(~below, torch.finfo(deficits.dtype).min)

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """Each completion against all that rank below it: -log sigmoid keeps small losses exact."""
        return -logsigmoid(-self._deficits(batch).logsumexp(-1)).sum(-1)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Completion i is raised by the probability that another of those at or below it came out first."""
        deficits = self._deficits(batch)
        pull = deficits.logsumexp(-1, keepdim=True).sigmoid() * deficits.softmax(-1)
        return prefopt.Gradient(policy=self.beta * (pull.sum(-2) - pull.sum(-1)))

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `pl_dpo`."""
    return [PLDPO]

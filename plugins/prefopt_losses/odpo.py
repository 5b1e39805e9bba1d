"""DPO with an offset that grows with the difference in score."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class ODPO(prefopt.PairLoss):
    """The negative log-likelihood of the implicit reward's gap exceeding an offset that the scores set.

    loss = -log sigmoid(margin), margin = beta * (log_ratio_chosen - log_ratio_rejected) - alpha * offset
    offset = log(chosen_score - rejected_score), or log(chosen_score / rejected_score)

    gradient: d/d chosen = -beta * sigmoid(-margin), d/d rejected = +beta * sigmoid(-margin)

    Args:
        beta: strength of the pull towards the reference, > 0. The authors' runs use 0.5 for TL;DR, 0.7 for sentiment
            and 0.05 for toxicity.
        alpha: how much the offset counts, >= 0; 0 is `dpo`. The authors use 1, and 0.5 for sentiment.
        offset: "score_gap" (the paper) is the log of the difference of the scores, negative for one below 1;
            "score_ratio" is the log of their ratio, which needs positive scores.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference and the offset is 0.

    Raises:
        ConfigError: `beta` is not above 0, `alpha` is negative, or `offset` is none of the two.
        ValueError: a chosen completion scores no higher than the rejected one, or a score is not positive where
            their ratio is asked for.

    Source:
        Amini, Vieira, Cotterell: Direct Preference Optimization with an Offset, 2024, arXiv 2402.10571, the definition
        of the ODPO loss.

    Differs:
        no. The authors' code has the ratio as an option, `offset="score_ratio"` here.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one, chosen_scores=4 * one, rejected_scores=one)
        >>> prefopt.get_loss("odpo", beta=0.5, alpha=1.0)(batch).losses
        tensor([0.5125])
    """

    name = "odpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, scores=True)
    learning_rates = (5e-7, 1e-6)  # the authors' code
    relations = (prefopt.Relation("dpo", where={"alpha": 0.0}),)
    beta: float = prefopt.field(0.5, gt=0, tune=(0.01, 1.0))
    alpha: float = prefopt.field(1.0, ge=0, tune=(0.0, 2.0))
    offset: Literal["score_gap", "score_ratio"] = "score_gap"

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        chosen, rejected = batch.chosen.scores, batch.rejected.scores
        assert chosen is not None
        assert rejected is not None
        chosen, rejected = chosen.detach().double(), rejected.detach().double()
        _refuse(~(chosen > rejected), "score the chosen completion no higher than the rejected one", "drop or swap")
        if self.offset == "score_ratio":
            _refuse(~(rejected > 0), "hold a score that is not positive", "use offset 'score_gap' or shift")
            offset = chosen.log() - rejected.log()
        else:
            offset = (chosen - rejected).log()
        return self.beta * batch.gap - self.alpha * offset.to(batch.gap.dtype)

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's, with a larger weight where the scores are further apart."""
        weight = self.beta * (-self._margin(batch)).sigmoid()
        return prefopt.Gradient(policy_chosen=-weight, policy_rejected=weight)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


def _refuse(wrong: Tensor, what: str, remedy: str) -> None:
    """An error that names the rows of the batch where `wrong` [B] is true."""
    rows = wrong.nonzero().flatten().tolist()
    if rows:
        raise ValueError(f"loss odpo: rows {rows} of the batch {what}, so their offset has no logarithm; {remedy} them")


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `odpo`."""
    return [ODPO]

"""Sequence likelihood calibration with human feedback."""

from typing import Literal

import torch
from torch import Tensor

import prefopt


class SLiC(prefopt.PairLoss):
    """The hinge on the gap of log-probs plus the NLL of the chosen completion.

    loss = max(0, delta - logp_chosen + logp_rejected) + lambda_ * nll, nll = -logp_chosen

    gradient: d/d chosen = -[short] - lambda_ (`nll` "sequence": lambda_ / chosen_length), d/d rejected = +[short],
    where [short] is 1 if logp_chosen - logp_rejected < delta, else 0 (also at the kink)

    Args:
        delta: gap that the chosen log-prob should keep, nats, >= 0. The paper uses 1.
        lambda_: weight of the NLL, >= 0.
        nll: "sum" (the paper) is the summed NLL per sequence; "sequence" is the mean over the tokens of each
            completion; "token" divides the summed NLL of the optimiser batch by its number of scored tokens.

    Returns:
        [B] one value per pair, nats, >= 0. There are two terms: `preference` (normaliser 1) and `nll` (normaliser:
        token counts with "token", else 1).

    Raises:
        ConfigError: `delta` or `lambda_` is negative, or `nll` is none of the three.

    Source:
        Zhao, Joshi, Liu, Khalman, Saleh, Liu: SLiC-HF: Sequence Likelihood Calibration with Human Feedback, 2023,
        arXiv 2305.10425, the calibration loss on human feedback data with its regularisation.

    Differs:
        The paper's NLL is that of a target from the fine-tuning data, or of the best completion; here it is the chosen
        one. What TRL calls `hinge` needs a reference and has no NLL: that is `rso_hinge`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-10.5 * one, chosen_lengths=5 * one, rejected_lengths=7 * one)
        >>> prefopt.get_loss("slic", delta=1.0, lambda_=0.1)(batch).losses
        tensor([1.5000])
    """

    name = "slic"
    needs = prefopt.Needs(rows={"pairs"})
    delta: float = prefopt.field(1.0, ge=0, tune=(0.1, 2.0))
    lambda_: float = prefopt.field(0.1, ge=0, tune=(0.1, 10.0))
    nll: Literal["sum", "sequence", "token"] = "sum"

    def _shortfall(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.delta - (batch.chosen.policy - batch.rejected.policy)

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """The hinge and the NLL."""
        preference = self._shortfall(batch).relu()
        nll, normaliser = batch.chosen.nll(self.nll)
        return prefopt.LossOutput.from_terms(
            preference=(preference, torch.ones_like(preference)), nll=(self.lambda_ * nll, normaliser)
        )

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """A pair that keeps its gap leaves the NLL alone."""
        short = (self._shortfall(batch) > 0).to(batch.chosen.policy.dtype)
        return prefopt.Gradient(
            policy_chosen=self.lambda_ * batch.chosen.nll_slope(self.nll) - short, policy_rejected=short
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """The log-prob."""
        return completions.policy


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `slic`."""
    return [SLiC]

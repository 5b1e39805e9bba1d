"""Supervised fine-tuning on demonstrations, or on the chosen side of pairs (Preferred-FT)."""

from typing import Literal

import torch
from torch import Tensor

import prefopt


class SFT(prefopt.Loss):
    """The negative log-likelihood of the demonstration.

    loss = -logp_chosen (`nll` "token" and "sum"), or -logp_chosen / chosen_length (`nll` "sequence")

    gradient: d/d chosen = -1, or -1 / chosen_length

    Args:
        nll: "token" divides the sum over the optimiser batch by its number of scored tokens; "sequence" is the mean
            of per-sequence means; "sum" is the mean of per-sequence sums.

    Returns:
        [B] the summed NLL of each row ("sequence": its mean per token), nats, >= 0. With "token" the one term `nll`
        has the token counts as normaliser.

    Raises:
        ConfigError: `nll` is none of the three.

    Source:
        Rafailov et al.: Direct Preference Optimization, 2023, arXiv 2305.18290, section 6 (Preferred-FT, and stage 1
        of the pipeline).

    Differs:
        no. The token mean runs over the whole optimiser batch, so it does not change with the batch cut.

    Example:
        >>> import torch, prefopt
        >>> batch = prefopt.PreferenceBatch.from_demonstrations(
        ...     policy=torch.tensor([-10.0, -3.0]), lengths=torch.tensor([5, 1]))
        >>> prefopt.get_loss("sft", nll="sequence")(batch).losses
        tensor([2., 3.])
    """

    name = "sft"
    needs = prefopt.Needs(rows={"demonstrations", "pairs"})
    learning_rates = (5e-7, 2e-5)  # the DPO authors' code, the first stage of SimPO's
    nll: Literal["token", "sequence", "sum"] = "token"

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """The NLL, with the normaliser its reduction calls for."""
        chosen = batch.chosen
        if self.nll == "token":
            return prefopt.LossOutput.from_terms(nll=(-chosen.policy, chosen.lengths.to(chosen.policy.dtype)))
        return prefopt.LossOutput(-chosen.policy if self.nll == "sum" else -chosen.mean_logps)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Constant: it does not depend on the log-probs."""
        minus_one = -torch.ones_like(batch.chosen.policy)
        if self.nll == "sequence":
            return prefopt.Gradient(policy_chosen=minus_one / batch.chosen.lengths.to(minus_one.dtype))
        return prefopt.Gradient(policy_chosen=minus_one)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """The log-prob."""
        return completions.policy


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `sft`."""
    return [SFT]

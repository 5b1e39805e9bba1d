"""Simple preference optimisation by perplexity."""

from torch import Tensor

import prefopt


class SimPER(prefopt.PairLoss):
    """The inverse perplexity of the rejected completion less that of the chosen.

    loss = -e^a_chosen + e^a_rejected, a = mean log-prob per token

    gradient: d/d chosen = -e^a_chosen / chosen_length, d/d rejected = +e^a_rejected / rejected_length

    Args:
        none: there are no hyper-parameters.

    Returns:
        [B] one value per pair, a difference of probabilities per token, from -1 to 1.

    Raises:
        ConfigError: a hyper-parameter is given.

    Source:
        Xiao, Yuan, Chen, Li, Liang, Ren, Honavar: SimPER: A Minimalist Approach to Preference Alignment without
        Hyperparameters, 2025, arXiv 2502.00883, the definition of L_SimPER.

    Differs:
        no.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-21 * one, chosen_lengths=5 * one, rejected_lengths=7 * one)
        >>> prefopt.get_loss("simper")(batch).losses
        tensor([-0.0855])
    """

    name = "simper"
    needs = prefopt.Needs(rows={"pairs"})
    learning_rates = (3e-7, 1e-6)  # the authors' training configs
    on_length = "compares mean log-probs per token"

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """The difference of two inverse perplexities."""
        return self.reward(batch.rejected) - self.reward(batch.chosen)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Each side's own inverse perplexity, shared out over its tokens."""
        chosen, rejected = self.reward(batch.chosen), self.reward(batch.rejected)
        return prefopt.Gradient(
            policy_chosen=-chosen / batch.chosen.lengths.to(chosen.dtype),
            policy_rejected=rejected / batch.rejected.lengths.to(rejected.dtype),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """The inverse perplexity, e^(mean log-prob per token)."""
        return completions.mean_logps.exp()


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `simper`."""
    return [SimPER]

"""Identity preference optimisation."""

from torch import Tensor

import prefopt


class IPO(prefopt.PairLoss):
    """The squared distance of the log-ratio gap from its target 1 / (2 tau).

    loss = (gap - 1 / (2 tau))^2, gap = log_ratio_chosen - log_ratio_rejected

    gradient: d/d chosen = 2 (gap - 1 / (2 tau)), d/d rejected = the negative; each divided by the completion's
    length where `length_normalized` is on.

    Args:
        tau: strength of the regularisation, > 0; the gap is pulled to 1 / (2 tau) nats, never beyond.
        length_normalized: use log-ratios per token instead of sums. The fitting tau then differs by about the
            length of a completion.

    Returns:
        [B] one value per pair, nats squared, >= 0.

    Raises:
        ConfigError: `tau` is not above 0.

    Source:
        Azar, Rowland, Piot, Guo, Calandriello, Valko, Munos: A General Theoretical Paradigm to Understand Learning
        from Human Preferences, 2023, arXiv 2310.12036, equation 17.

    Differs:
        no. TRL and HALOs use per-token averages where the paper has sums: `length_normalized=True`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("ipo", tau=0.1)(batch).losses
        tensor([4.])
    """

    name = "ipo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    tau: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    length_normalized: bool = False

    def _log_ratio(self, completions: prefopt.Completions) -> Tensor:
        return completions.mean_log_ratio if self.length_normalized else completions.log_ratio

    def _distance(self, batch: prefopt.PreferenceBatch) -> Tensor:
        gap = self._log_ratio(batch.chosen) - self._log_ratio(batch.rejected)
        return gap - 1 / (2 * self.tau)

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """Squared distance of the gap from 1 / (2 tau)."""
        return self._distance(batch).square()

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Linear in the distance, so it changes sign once the gap exceeds its target."""
        slope = 2 * self._distance(batch)
        if self.length_normalized:
            return prefopt.Gradient(
                policy_chosen=slope / batch.chosen.lengths.to(slope.dtype),
                policy_rejected=-slope / batch.rejected.lengths.to(slope.dtype),
            )
        return prefopt.Gradient(policy_chosen=slope, policy_rejected=-slope)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Tau * log_ratio (per token where `length_normalized`)."""
        return self.tau * self._log_ratio(completions)


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `ipo`."""
    return [IPO]

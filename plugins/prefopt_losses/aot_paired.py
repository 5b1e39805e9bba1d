"""Alignment via optimal transport, paired."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class AOTPaired(prefopt.PairLoss):
    """The logistic loss between the policy's gaps and the reference's, both sorted over the batch.

    loss = -(1 - e) * log sigmoid(margin) - e * log sigmoid(-margin), e = label_smoothing
    margin = beta * (u_(k) - v_(k)), k the row's rank by u
    u = logp_chosen - logp_rejected under the policy, v = the same under the reference

    gradient: d/d chosen = beta * (e * sigmoid(margin) - (1 - e) * sigmoid(-margin)), d/d rejected = the negative;
    the pairing of ranks is a constant.

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.01.
        label_smoothing: assumed rate of wrong labels e, 0 <= e < 0.5. The paper has none: 0.

    Returns:
        [B] one value per pair, nats, >= 0, in the order of the rows; ln 2 where the policy equals the reference. The
        sort runs over the whole optimiser batch. With row weights quantiles are matched (`quantile_coupling`), and a
        row whose mass meets several reference gaps has their weighted mean. Equal gaps keep the order of their rows.

    Raises:
        ConfigError: `beta` is not above 0, or `label_smoothing` is outside its range.

    Source:
        Melnyk et al.: Distributional Preference Alignment of LLMs via Optimal Transport, 2024, arXiv 2406.05882, the
        paired variant with the logistic loss.

    Differs:
        no. TRL calls it `aot`, sorts on each device alone and returns the values in the order of the ranks.

    Example:
        >>> import torch, prefopt
        >>> two = torch.tensor([1.0, 1.0])
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=torch.tensor([-10.0, -10.0]), policy_rejected=torch.tensor([-14.0, -12.0]),
        ...     reference_chosen=-11 * two, reference_rejected=torch.tensor([-12.0, -13.0]),
        ...     chosen_lengths=5 * two, rejected_lengths=7 * two)
        >>> prefopt.get_loss("aot_paired", beta=0.1)(batch).losses
        tensor([0.5981, 0.6444])
    """

    name = "aot_paired"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True)
    beta: float = prefopt.field(0.01, gt=0, tune=(0.01, 1.0))
    label_smoothing: float = prefopt.field(0.0, ge=0, lt=0.5)

    def _margins(self, batch: prefopt.PreferenceBatch) -> tuple[prefopt.Coupling, Tensor]:
        """The coupling of the two sorted samples and the margin of each of its pieces."""
        chosen, rejected = batch.chosen, batch.rejected
        assert chosen.reference is not None
        assert rejected.reference is not None
        policy = chosen.policy - rejected.policy
        reference = (chosen.reference - rejected.reference).detach()
        coupling = prefopt.quantile_coupling(policy, reference, batch.weights)
        return coupling, self.beta * (policy[coupling.first] - reference[coupling.second])

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """Lowest gap against lowest, highest against highest; each value goes back to its row."""
        coupling, margin = self._margins(batch)
        losses = -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)
        return torch.zeros_like(batch.chosen.policy).index_add(0, coupling.first, coupling.share * losses)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """That of the smoothed logistic loss, carried back through the sort."""
        coupling, margin = self._margins(batch)
        pull = (1 - self.label_smoothing) * (-margin).sigmoid() - self.label_smoothing * margin.sigmoid()
        pulls = torch.zeros_like(batch.chosen.policy).index_add(0, coupling.first, self.beta * coupling.share * pull)
        return prefopt.Gradient(policy_chosen=-pulls, policy_rejected=pulls)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `aot_paired`."""
    return [AOTPaired]

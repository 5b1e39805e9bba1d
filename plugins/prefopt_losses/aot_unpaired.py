"""Alignment via optimal transport, unpaired."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class AOTUnpaired(prefopt.PairLoss):
    """The logistic loss between the log-ratios of chosen completions and of rejected ones, each sorted over the batch.

    loss = -(1 - e) * log sigmoid(margin) - e * log sigmoid(-margin), e = label_smoothing
    margin = beta * (r_w_(k) - r_l_(k)), k the chosen completion's rank by r_w
    r_w, r_l = log_ratio of chosen and rejected completions

    gradient: d/d chosen = beta * (e * sigmoid(margin) - (1 - e) * sigmoid(-margin)), d/d rejected = the negative, at
    the row of the rejected completion of the same rank; the pairing of ranks is a constant.

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.01.
        label_smoothing: assumed rate of wrong labels e, 0 <= e < 0.5. The paper has none: 0.

    Returns:
        [B] one value per pair, nats, >= 0, at the row of the chosen completion; ln 2 where the policy equals the
        reference. Which rejected completion a row came with does not matter. The sort runs over the whole optimiser
        batch. With row weights quantiles are matched (`quantile_coupling`), and a row whose mass meets several
        rejected completions has their weighted mean. Equal log-ratios keep the order of their rows.

    Raises:
        ConfigError: `beta` is not above 0, or `label_smoothing` is outside its range.

    Source:
        Melnyk et al.: Distributional Preference Alignment of LLMs via Optimal Transport, 2024, arXiv 2406.05882, the
        unpaired variant with the logistic loss.

    Differs:
        no. The paper's two samples are of equal size, so it reads pairs, as TRL does. TRL up to 0.27 calls it
        `aot_pair`, sorts on each device alone and returns the values in the order of the ranks.

    Example:
        >>> import torch, prefopt
        >>> two = torch.tensor([1.0, 1.0])
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=torch.tensor([-10.0, -8.0]), policy_rejected=torch.tensor([-12.0, -14.0]),
        ...     reference_chosen=-11 * two, reference_rejected=-12 * two,
        ...     chosen_lengths=5 * two, rejected_lengths=7 * two)
        >>> prefopt.get_loss("aot_unpaired", beta=0.1)(batch).losses
        tensor([0.5544, 0.5544])
    """

    name = "aot_unpaired"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True)
    beta: float = prefopt.field(0.01, gt=0, tune=(0.01, 1.0))
    label_smoothing: float = prefopt.field(0.0, ge=0, lt=0.5)

    def _margins(self, batch: prefopt.PreferenceBatch) -> tuple[prefopt.Coupling, Tensor]:
        """The coupling of the two sorted samples and the margin of each of its pieces."""
        chosen, rejected = batch.chosen.log_ratio, batch.rejected.log_ratio
        coupling = prefopt.quantile_coupling(chosen, rejected, batch.weights)
        return coupling, self.beta * (chosen[coupling.first] - rejected[coupling.second])

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """Lowest log-ratio against lowest, highest against highest; each value goes to the chosen completion's row."""
        coupling, margin = self._margins(batch)
        losses = -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)
        return torch.zeros_like(batch.chosen.policy).index_add(0, coupling.first, coupling.share * losses)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """That of the smoothed logistic loss, carried back through both sorts."""
        coupling, margin = self._margins(batch)
        pull = (1 - self.label_smoothing) * (-margin).sigmoid() - self.label_smoothing * margin.sigmoid()
        pulls, empty = self.beta * coupling.share * pull, torch.zeros_like(batch.chosen.policy)
        return prefopt.Gradient(
            policy_chosen=-empty.index_add(0, coupling.first, pulls),
            policy_rejected=empty.index_add(0, coupling.second, pulls),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `aot_unpaired`."""
    return [AOTUnpaired]

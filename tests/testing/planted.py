"""Losses to test the kit with: three that keep every promise, and one for each way of breaking one."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NewType

import pydantic
import torch
from torch.nn.functional import logsigmoid

import prefopt


class Good(prefopt.PairLoss):
    """The negative log-likelihood of the preferences.

    loss = -log sigmoid(beta * gap)

    gradient: d/d chosen = -beta * sigmoid(-beta * gap), d/d rejected = the negative

    Args:
        beta: strength of the pull towards the reference, > 0.

    Returns:
        [B] one value per pair, nats, >= 0.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Nobody et al.: A loss to test with, https://example.com/good.

    Differs:
        no.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-one, policy_rejected=-one, chosen_lengths=one, rejected_lengths=one,
        ...     reference_chosen=-one, reference_rejected=-one)
        >>> Good()(batch).losses
        tensor([0.6931])
    """

    name = "good"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    beta: float = prefopt.field(0.5, gt=0, tune=(0.1, 1.0))

    def values(self, batch):
        return -logsigmoid(self.beta * batch.gap)

    def gradient(self, batch):
        weight = self.beta * (-self.beta * batch.gap).sigmoid()
        return prefopt.Gradient(policy_chosen=-weight, policy_rejected=weight)

    def reward(self, completions):
        return self.beta * completions.log_ratio


class GoodRanking(prefopt.RankingLoss):
    """The negative log-probability that the best completion wins a race of rewards: no closed form, random or not."""

    name = "good_ranking"
    needs = prefopt.Needs(rows={"rankings"}, reference=True)
    relations = (prefopt.Relation("good", num_completions=2),)
    beta: float = prefopt.field(0.5, gt=0, tune=(0.1, 1.0))

    def values(self, batch):
        present = batch.completions.lengths > 0
        rewards = self.reward(batch.completions).masked_fill(~present, -torch.inf)
        best = batch.completions.scores.masked_fill(~present, -torch.inf).argmax(1, keepdim=True)
        return -rewards.log_softmax(1).gather(1, best)[:, 0]

    def reward(self, completions):
        return self.beta * completions.log_ratio


class GoodTokens(prefopt.PairLoss):
    """The summed log-probs of the tokens that a coin keeps, less those of the rejected side, with a running mean."""

    name = "good_tokens"
    needs = prefopt.Needs(rows={"pairs"}, tokens=True, coupled=True, state=True)
    momentum: float = prefopt.field(0.5, ge=0, lt=1)

    def initial_state(self):
        return {"mean": torch.zeros((), dtype=torch.float64)}

    def _sums(self, batch):
        sums = []
        for stream, tokens in enumerate((batch.chosen.tokens, batch.rejected.tokens)):
            coins = batch.draws.uniform(tokens.lengths.tolist(), stream=stream) < 0.5
            sums.append(tokens.sum(tokens.policy * coins))
        return sums

    def _state(self, batch):
        state = batch.state or self.initial_state()
        mean = batch.mean(self._sums(batch)[0].detach()).double()
        return {"mean": self.momentum * state["mean"] + (1 - self.momentum) * mean}

    def values(self, batch):
        state, (chosen, rejected) = self._state(batch), self._sums(batch)
        losses = (rejected - chosen + state["mean"].to(chosen.dtype)).square()
        return prefopt.LossOutput(losses, metrics={"mean": state["mean"].expand(len(batch))}, state=state)

    def gradient(self, batch):
        chosen, rejected = self._sums(batch)
        slope = 2 * (rejected - chosen + self._state(batch)["mean"].to(chosen.dtype))
        slopes = {}
        for stream, (sign, side) in enumerate(((-1, "chosen"), (1, "rejected"))):
            tokens = getattr(batch, side).tokens
            coins = batch.draws.uniform(tokens.lengths.tolist(), stream=stream) < 0.5
            slopes[f"{side}_tokens"] = sign * tokens.spread(slope) * coins
        return prefopt.Gradient(**slopes)

    def reward(self, completions):
        return completions.policy


class GoodLabels(prefopt.LabelLoss):
    """The distance of each log-ratio from the mismatched ones, of the sign that the label names."""

    name = "good_labels"
    needs = prefopt.Needs(rows={"labels"}, reference=True, mismatched=True, coupled=True)
    centre: Literal["mean", "zero"] = "mean"

    def values(self, batch):
        centre = batch.mean(batch.mismatched.log_ratio).detach() * (self.centre == "mean")
        return torch.where(batch.desirable, -1.0, 1.0).to(centre.dtype) * (batch.completions.log_ratio - centre).tanh()

    def reward(self, completions):
        return completions.log_ratio


GOOD = (Good, GoodRanking, GoodTokens, GoodLabels)


# One fault each; FAULTS at the end says which check must find it -----------------------------------------------------


class WrongSign(Good):
    def gradient(self, batch):
        right = super().gradient(batch)
        return prefopt.Gradient(policy_chosen=right.policy_rejected, policy_rejected=right.policy_chosen)


class WrongScale(Good):
    def gradient(self, batch):
        right = super().gradient(batch)
        return prefopt.Gradient(policy_chosen=2 * right.policy_chosen, policy_rejected=2 * right.policy_rejected)


class ForgottenInput(Good):
    def gradient(self, batch):
        return prefopt.Gradient(policy_chosen=super().gradient(batch).policy_chosen)


class WrongOnLongCompletions(Good):
    def gradient(self, batch):
        right = super().gradient(batch)
        long = torch.where(batch.chosen.lengths > 9, 1.5, 1.0)
        return prefopt.Gradient(policy_chosen=long * right.policy_chosen, policy_rejected=right.policy_rejected)


class StraightThrough(prefopt.PairLoss):
    """No closed form says that the slope is meant to be that of a line."""

    name = "straight_through"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)

    def values(self, batch):
        return batch.gap + (batch.gap.square() - batch.gap).detach()

    def reward(self, completions):
        return completions.log_ratio


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0]


class WrongBackward(StraightThrough):
    """Closed form and autograd share the mistake."""

    def values(self, batch):
        return _WrongBackward.apply(batch.gap)

    def gradient(self, batch):
        return prefopt.Gradient(policy_chosen=batch.gap, policy_rejected=-batch.gap)


class NaiveLogSigmoid(Good):
    def values(self, batch):
        return -(self.beta * batch.gap).sigmoid().log()


class OverflowingClosedForm(Good):
    def gradient(self, batch):
        odds = (self.beta * batch.gap).exp()
        weight = self.beta * (1 - odds / (1 + odds))
        return prefopt.Gradient(policy_chosen=-weight, policy_rejected=weight)


class NanMetric(Good):
    def values(self, batch):
        ratio = batch.chosen.log_ratio
        return prefopt.LossOutput(super().values(batch), metrics={"ratio": ratio / ratio.exp() * ratio.exp()})


class LeakedReference(Good):
    def values(self, batch):
        return -logsigmoid(self.beta * (batch.gap + batch.chosen.reference - batch.chosen.reference.detach()))


class LeakedMismatched(GoodLabels):
    def values(self, batch):
        return super().values(batch) + batch.mean(batch.mismatched.policy)


class AttachedMetrics(Good):
    def __call__(self, batch):
        output = super().__call__(batch)
        return replace(output, metrics={"gap": batch.gap})


class AttachedState(GoodTokens):
    def _state(self, batch):
        return {"mean": batch.mean(self._sums(batch)[0]).double()}

    gradient = prefopt.Loss.gradient


class Coupled(Good):
    gradient = prefopt.Loss.gradient

    def values(self, batch):
        return super().values(batch) - batch.mean(batch.gap)


class CoupledMetric(Good):
    def values(self, batch):
        mean = batch.mean(batch.gap)
        return prefopt.LossOutput(super().values(batch), metrics={"mean": mean.expand(len(batch))})


class NeverCoupled(Good):
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True)


class OrderDependent(Good):
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True)
    gradient = prefopt.Loss.gradient

    def values(self, batch):
        return super().values(batch) * torch.arange(1, len(batch) + 1)


class OrderDependentState(GoodTokens):
    gradient = prefopt.Loss.gradient

    def _state(self, batch):
        return {"mean": self._sums(batch)[0][0].detach().double()}


class UnweightedMean(Good):
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True)
    gradient = prefopt.Loss.gradient

    def values(self, batch):
        return -logsigmoid(self.beta * (batch.gap - batch.gap.mean().detach()))


class UnweightedState(GoodTokens):
    def _state(self, batch):
        state = batch.state or self.initial_state()
        return {"mean": self.momentum * state["mean"] + (1 - self.momentum) * self._sums(batch)[0].mean().detach()}


class ReadsAbsentSlots(GoodRanking):
    def values(self, batch):
        rewards = self.reward(batch.completions)
        best = batch.completions.scores.argmax(1, keepdim=True)
        return -rewards.log_softmax(1).gather(1, best)[:, 0]


class ReadsUndeclaredReference(Good):
    needs = prefopt.Needs(rows={"pairs"})

    def values(self, batch):
        gap = batch.chosen.policy - batch.rejected.policy
        if batch.chosen.reference is not None:
            gap = batch.gap
        return -logsigmoid(self.beta * gap)

    gradient = prefopt.Loss.gradient

    def reward(self, completions):
        return completions.policy


class UndeclaredState(Good):
    def values(self, batch):
        return prefopt.LossOutput(super().values(batch), state={"mean": batch.gap.mean().detach()})


class AnotherKindIsTaken(Good):
    def _check(self, batch):
        pass

    def values(self, batch):
        return super().values(batch) if batch.kind == "pairs" else torch.zeros(len(batch), dtype=torch.float64)

    def rewards(self, batch):
        return super().rewards(batch) if batch.kind == "pairs" else {}


class MissingReferenceIsTaken(Good):
    def _check(self, batch):
        pass

    def values(self, batch):
        return super().values(batch) if batch.chosen.reference is not None else batch.chosen.policy

    def rewards(self, batch):
        return super().rewards(batch) if batch.chosen.reference is not None else {}


class NamelessError(Good):
    def _check(self, batch):
        if batch.chosen.reference is None:
            raise ValueError("something is missing")


class GlobalRandomness(Good):
    def values(self, batch):
        return super().values(batch) + torch.rand(len(batch), dtype=batch.gap.dtype)


class DrawsByPlace(Good):
    def _coins(self, batch):
        draws = prefopt.Draws(tuple(range(len(batch))), seed=batch.draws.seed, step=batch.draws.step)
        return (draws.uniform([1] * len(batch)) + 0.5).to(batch.gap.dtype)

    def values(self, batch):
        return super().values(batch) * self._coins(batch)

    gradient = prefopt.Loss.gradient


class DrawsWithoutStep(DrawsByPlace):
    def _coins(self, batch):
        draws = prefopt.Draws(batch.draws.row_ids, seed=batch.draws.seed)
        return (draws.uniform([1] * len(batch)) + 0.5).to(batch.gap.dtype)


class DrawsWithoutSeed(DrawsByPlace):
    def _coins(self, batch):
        draws = prefopt.Draws(batch.draws.row_ids, step=batch.draws.step)
        return (draws.uniform([1] * len(batch)) + 0.5).to(batch.gap.dtype)


class MutatesInput(Good):
    def values(self, batch):
        with torch.no_grad():
            batch.chosen.reference.clamp_(max=-1)
        return super().values(batch)


class WrongDtype(Good):
    def values(self, batch):
        return super().values(batch).double()


class LengthsMustBeFloat(Good):
    def values(self, batch):
        return super().values(batch) * (batch.chosen.lengths.exp_() if batch.chosen.lengths.is_floating_point() else 1)


class Reduced(Good):
    def values(self, batch):
        return super().values(batch).mean()


class RewardOfWrongShape(Good):
    def rewards(self, batch):
        return {}

    def reward(self, completions):
        return self.beta * completions.log_ratio.sum()


class RewardOfWrongDtype(Good):
    def reward(self, completions):
        return self.beta * completions.log_ratio.double()


class TermsDoNotAddUp(Good):
    def values(self, batch):
        losses = super().values(batch)
        return prefopt.LossOutput(losses, terms={"preference": (2 * losses, torch.ones_like(losses))})


class NormaliserReadsLogps(Good):
    def values(self, batch):
        losses = super().values(batch)
        return prefopt.LossOutput(losses, terms={"preference": (losses, 1 + batch.gap.detach().sigmoid())})


class NegativeNormaliser(Good):
    def values(self, batch):
        losses = super().values(batch)
        return prefopt.LossOutput(losses, terms={"preference": (losses, -torch.ones_like(losses))})


class EmptyNormaliser(Good):
    def values(self, batch):
        losses = super().values(batch)
        return prefopt.LossOutput(losses, terms={"preference": (losses, torch.zeros_like(losses))})


class AttachedNormaliser(Good):
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True)

    def values(self, batch):
        losses = super().values(batch)
        return prefopt.LossOutput(losses, terms={"preference": (losses, torch.ones_like(losses) + 0 * losses)})


class RewardInCompany(Good):
    def reward(self, completions):
        return self.beta * (completions.log_ratio - completions.log_ratio.mean())


class InfiniteReward(Good):
    def reward(self, completions):
        return completions.log_ratio / 0


class OtherRewardMetric(Good):
    def rewards(self, batch):
        return {"chosen_reward": batch.chosen.log_ratio, "rejected_reward": batch.rejected.log_ratio}


class NoRewardMetric(Good):
    def rewards(self, batch):
        return {}


Strength = NewType("Strength", float)


class NoRange(Good):
    beta: Strength = 0.5  # under an alias, which the base class does not see through


class InvalidDefault(Good):
    beta: float = prefopt.field(0.0, gt=0)

    def __init__(self, **hyperparameters):
        if "beta" not in hyperparameters:
            raise prefopt.ConfigError("loss good: beta must be given")
        super().__init__(**hyperparameters)


class UnknownFieldIsTaken(Good):
    def __init__(self, **hyperparameters):
        super().__init__(**{name: value for name, value in hyperparameters.items() if name == "beta"})


class OutOfRangeIsClamped(Good):
    def __init__(self, **hyperparameters):
        beta = hyperparameters.get("beta")
        super().__init__(
            **({**hyperparameters, "beta": 0.1} if isinstance(beta, float) and beta <= 0 else hyperparameters)
        )


class WrongTypeIsTaken(Good):
    def __init__(self, **hyperparameters):
        fine = {
            name: 0.5 if isinstance(value, str) and name == "beta" else value for name, value in hyperparameters.items()
        }
        super().__init__(**fine)


class NamelessRange(Good):
    def __init__(self, **hyperparameters):
        try:
            super().__init__(**hyperparameters)
        except prefopt.ConfigError:
            raise prefopt.ConfigError("out of range") from None


class TuneOutOfRange(Good):
    beta: float = prefopt.field(0.5, gt=0, le=1, tune=(0.1, 2.0))


class TuneBackwards(Good):
    beta: float = prefopt.field(0.5, gt=0, tune=(1.0, 0.1))


class OtherAfterRoundTrip(Good):
    def __init__(self, **hyperparameters):
        beta = hyperparameters.get("beta", 0.5)
        super().__init__(**{**hyperparameters, **({"beta": beta * 2} if isinstance(beta, float) else {})})


class NoDefaultInSchema(Good):
    beta: float = pydantic.Field(0.5, gt=0, json_schema_extra=lambda schema: schema.pop("default"))


class SilentOption(Good):
    smoothing: float = prefopt.field(0.1, ge=0, lt=0.5)


class SilentFlag(Good):
    normalised: bool = False


class MutatedState(GoodTokens):
    def _state(self, batch):
        state = batch.state or self.initial_state()
        state["mean"].add_(batch.mean(self._sums(batch)[0].detach()))
        return {"mean": state["mean"].clone()}


class DroppedState(GoodTokens):
    def values(self, batch):
        return replace(super().values(batch), state={})


class NonFiniteState(GoodTokens):
    def values(self, batch):
        return replace(super().values(batch), state={"mean": torch.tensor(torch.inf)})


class ShapelessState(GoodTokens):
    def values(self, batch):
        return replace(super().values(batch), state={"mean": batch.weights.double()})


class ForgetfulState(GoodTokens):
    def _state(self, batch):
        return {"mean": batch.mean(self._sums(batch)[0].detach()).double()}


class NoInitialState(GoodTokens):
    def initial_state(self):
        return {}

    def _state(self, batch):
        return {"mean": batch.mean(self._sums(batch)[0].detach()).double()}


class FalseRelation(Good):
    name = "false_relation"
    relations = (prefopt.Relation("good", given={"beta": 0.7}),)


class FalseGradientRelation(Good):
    name = "false_gradient_relation"
    relations = (prefopt.Relation("good"),)

    def values(self, batch):
        losses = super().values(batch)
        return losses.detach() + 0 * losses


class FalseRankingRelation(GoodRanking):
    relations = (prefopt.Relation("good", num_completions=2),)

    def values(self, batch):
        worst_first = replace(batch.completions, scores=-batch.completions.scores)
        return super().values(replace(batch, _sides={"completions": worst_first}))


class RelationToNobody(Good):
    relations = (prefopt.Relation("nobody"),)


class RelationOfOtherRows(Good):
    relations = (prefopt.Relation("good_labels"),)


class PagelessAndMisnamed(Good):
    name = "pageless"


class NoSource(Good):
    __doc__ = (Good.__doc__ or "").replace("https://example.com/good", "somewhere")


class NoSection(Good):
    __doc__ = (Good.__doc__ or "").replace("Differs:", "Different:")


class WrongNumber(Good):
    __doc__ = (Good.__doc__ or "").replace("0.6931", "0.6932")


class Misplaced(Good):
    name = "misplaced"


REGISTRY = prefopt.Registry(
    losses={loss.name: loss for loss in (*GOOD, PagelessAndMisnamed, Misplaced)},
    plugins=(
        prefopt.Plugin("prefopt-good:good", "1", losses=("good",)),
        prefopt.Plugin("prefopt:without_a_page", "1", losses=("pageless",)),
        prefopt.Plugin("prefopt:misplaced", "1", losses=("misplaced",)),
    ),
    contested={},
)

FAULTS: dict[str, tuple[type[prefopt.Loss], ...]] = {
    "closed_form": (WrongSign, WrongScale, ForgottenInput, WrongOnLongCompletions),
    "finite_differences": (StraightThrough, WrongBackward, WrongSign),
    "extremes": (NaiveLogSigmoid, OverflowingClosedForm, NanMetric),
    "reference_gradient": (LeakedReference, LeakedMismatched),
    "detached_metrics": (AttachedMetrics, AttachedState),
    "row_independence": (Coupled, CoupledMetric),
    "coupling": (NeverCoupled,),
    "row_order": (OrderDependent, OrderDependentState, DrawsByPlace),
    "row_weights": (UnweightedMean, UnweightedState),
    "absent_slots": (ReadsAbsentSlots,),
    "undeclared_inputs": (ReadsUndeclaredReference, UndeclaredState),
    "missing_inputs": (MissingReferenceIsTaken, NamelessError),
    "row_kinds": (AnotherKindIsTaken, NamelessError),
    "determinism": (GlobalRandomness,),
    "inputs_untouched": (MutatesInput,),
    "shape_and_dtype": (WrongDtype, Reduced, LengthsMustBeFloat, RewardOfWrongShape, RewardOfWrongDtype),
    "terms": (TermsDoNotAddUp, NormaliserReadsLogps, NegativeNormaliser, EmptyNormaliser, AttachedNormaliser),
    "reward": (RewardInCompany, InfiniteReward, OtherRewardMetric, NoRewardMetric, RewardOfWrongShape),
    "state": (
        MutatedState,
        DroppedState,
        NonFiniteState,
        ShapelessState,
        ForgetfulState,
        NoInitialState,
        AttachedState,
    ),
    "draws": (DrawsByPlace, DrawsWithoutStep, DrawsWithoutSeed),
    "ranges": (
        NoRange,
        InvalidDefault,
        UnknownFieldIsTaken,
        OutOfRangeIsClamped,
        WrongTypeIsTaken,
        NamelessRange,
        TuneOutOfRange,
        TuneBackwards,
    ),
    "round_trip": (OtherAfterRoundTrip, NoDefaultInSchema),
    "no_silent_option": (SilentOption, SilentFlag),
    "relations": (FalseRelation, FalseGradientRelation, FalseRankingRelation, RelationToNobody, RelationOfOtherRows),
    "name": (PagelessAndMisnamed, Misplaced),
    "docs_page": (PagelessAndMisnamed,),
    "docstring": (NoSource, NoSection, GoodLabels),
    "example": (WrongNumber, GoodLabels),
}

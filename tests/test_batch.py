"""What a batch refuses and what it hands out."""

import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from prefopt import Completions, Draws, PreferenceBatch, Tokens

THREE = torch.tensor([-4.0, -6.0, -9.0])
LENGTHS = torch.tensor([2, 3, 1])
TOKENS = Tokens(policy=-torch.ones(6), offsets=torch.tensor([0, 2, 5, 6]))
REQUIRED = {
    "from_pairs": {
        "policy_chosen": THREE,
        "policy_rejected": THREE - 1,
        "chosen_lengths": LENGTHS,
        "rejected_lengths": LENGTHS.flip(0),
    },
    "from_labels": {"policy": THREE, "lengths": LENGTHS, "desirable": torch.tensor([True, False, True])},
    "from_rankings": {
        "policy": THREE[:, None] - torch.arange(2),
        "lengths": LENGTHS[:, None].expand(3, 2),
        "scores": torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]]),
    },
    "from_demonstrations": {"policy": THREE, "lengths": LENGTHS},
}
OPTIONAL = {
    "from_pairs": ["reference_chosen", "reference_rejected", "chosen_scores", "rejected_scores", "weights"],
    "from_labels": ["reference", "mismatched_policy", "mismatched_reference", "mismatched_lengths", "weights"],
    "from_rankings": ["reference", "weights"],
    "from_demonstrations": ["weights"],
}
TOGETHER = {
    "from_pairs": [
        ("reference_chosen", "reference_rejected"),
        ("chosen_scores", "rejected_scores"),
        ("chosen_tokens", "rejected_tokens"),
    ],
    "from_labels": [("mismatched_policy", "mismatched_reference")],
}
every_constructor = pytest.mark.parametrize("constructor", REQUIRED)


def build(constructor, **changed):
    return getattr(PreferenceBatch, constructor)(**{**REQUIRED[constructor], **changed})


def valid(constructor, name):
    if name == "weights":
        return torch.ones(3)
    return REQUIRED[constructor].get(name, next(iter(REQUIRED[constructor].values())))


def partners(constructor, name):
    pair = next((pair for pair in TOGETHER.get(constructor, []) if name in pair), ())
    return {other: valid(constructor, other) for other in pair}


TENSORS = [(constructor, name) for constructor in REQUIRED for name in [*REQUIRED[constructor], *OPTIONAL[constructor]]]


@every_constructor
def test_batch_of_what_is_required_has_a_weight_of_one_per_row(constructor):
    batch = build(constructor)
    assert len(batch) == 3
    assert batch.kind == constructor.removeprefix("from_")
    assert batch.weights.equal(torch.ones(3))
    assert batch.state is None


@pytest.mark.parametrize(("constructor", "name"), TENSORS)
def test_tensor_with_a_row_too_few_is_refused_by_name(constructor, name):
    first = next(iter(REQUIRED[constructor]))
    changed = partners(constructor, name) | {name: valid(constructor, name)[:2]}
    # The first tensor sets the number of rows, so the next one is the odd one out.
    blamed = list(REQUIRED[constructor])[1] if name == first else name
    with pytest.raises(ValueError, match=rf"{blamed} has shape \[.*\]; the batch has \[.*\]"):
        build(constructor, **changed)


@pytest.mark.parametrize(("constructor", "name"), TENSORS)
def test_tensor_with_a_dimension_too_many_is_refused_by_name(constructor, name):
    changed = partners(constructor, name) | {name: valid(constructor, name)[..., None]}
    with pytest.raises(ValueError, match=rf"{name} has shape \[.*1\]; "):
        build(constructor, **changed)


def test_reduced_log_probs_are_refused():
    with pytest.raises(ValueError, match=r"policy_chosen has shape \[\]; it must be one value a row"):
        build("from_pairs", policy_chosen=THREE.sum())


def test_rankings_need_two_dimensions():
    with pytest.raises(ValueError, match=r"policy has shape \[3\]; rankings need \[B, K\]"):
        build("from_rankings", policy=THREE)


@pytest.mark.parametrize(
    ("constructor", "given", "absent"),
    [
        (constructor, *order)
        for constructor, pairs in TOGETHER.items()
        for pair in pairs
        for order in (pair, pair[::-1])
    ],
)
def test_one_of_two_that_belong_together_is_refused(constructor, given, absent):
    value = TOKENS if "tokens" in given else THREE
    with pytest.raises(ValueError, match=f"^{given} given without {absent}$"):
        build(constructor, **{given: value})


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_labels_that_are_not_bool_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"desirable has dtype {dtype}; it must be torch\.bool"):
        build("from_labels", desirable=torch.ones(3, dtype=dtype))


@every_constructor
def test_arguments_go_by_name_alone(constructor):
    with pytest.raises(TypeError, match="positional"):
        getattr(PreferenceBatch, constructor)(*REQUIRED[constructor].values())


def test_pairs_hand_out_both_sides():
    batch = build(
        "from_pairs",
        reference_chosen=THREE - 2,
        reference_rejected=THREE - 3,
        chosen_scores=THREE + 10,
        rejected_scores=THREE + 9,
        chosen_tokens=TOKENS,
        rejected_tokens=TOKENS,
    )
    assert batch.chosen.log_ratio.tolist() == [2, 2, 2]
    assert batch.rejected.log_ratio.tolist() == [2, 2, 2]
    assert batch.chosen.policy.equal(THREE)
    assert batch.rejected.policy.equal(THREE - 1)
    assert batch.rejected.lengths.tolist() == [1, 3, 2]
    assert batch.chosen.scores.equal(THREE + 10)
    assert batch.rejected.scores.equal(THREE + 9)
    assert batch.rejected.tokens is TOKENS
    assert set(batch.sides()) == {"chosen", "rejected"}


def test_labels_hand_out_completions_labels_and_mismatched_ones():
    batch = build("from_labels", mismatched_policy=THREE, mismatched_reference=THREE + 1, reference=THREE)
    assert batch.completions.log_ratio.tolist() == [0, 0, 0]
    assert batch.mismatched.log_ratio.tolist() == [-1, -1, -1]
    assert batch.mismatched.lengths.equal(LENGTHS)
    assert batch.desirable.tolist() == [True, False, True]
    with_lengths = build(
        "from_labels", mismatched_policy=THREE, mismatched_reference=THREE, mismatched_lengths=LENGTHS + 1
    )
    assert with_lengths.mismatched.lengths.equal(LENGTHS + 1)


def test_rankings_hand_out_completions_with_scores():
    batch = build("from_rankings", reference=REQUIRED["from_rankings"]["policy"] - 1)
    assert batch.completions.log_ratio.tolist() == [[1, 1]] * 3
    assert batch.completions.scores.shape == (3, 2)


def test_demonstrations_fill_chosen_alone():
    batch = build("from_demonstrations", tokens=TOKENS)
    assert list(batch.sides()) == ["chosen"]
    assert batch.chosen.tokens is TOKENS


@pytest.mark.parametrize(
    ("constructor", "side", "there"),
    [
        ("from_pairs", "completions", "chosen, rejected"),
        ("from_pairs", "mismatched", "chosen, rejected"),
        ("from_labels", "chosen", "completions"),
        ("from_labels", "mismatched", "completions"),
        ("from_rankings", "rejected", "completions"),
        ("from_demonstrations", "rejected", "chosen"),
    ],
)
def test_absent_side_is_refused_with_what_there_is(constructor, side, there):
    batch = build(constructor)
    assert not batch.has(side)
    with pytest.raises(ValueError, match=f"a batch of {batch.kind} without '{side}'; it has: {there}$"):
        getattr(batch, side)


@pytest.mark.parametrize("constructor", ["from_pairs", "from_rankings", "from_demonstrations"])
def test_labels_of_a_batch_without_any_are_refused(constructor):
    batch = build(constructor)
    with pytest.raises(ValueError, match=f"a batch of {batch.kind} has no `desirable`"):
        batch.desirable  # noqa: B018


def test_log_ratio_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="log_ratio needs reference log-probs, and this batch has none"):
        build("from_pairs").chosen.log_ratio  # noqa: B018


def test_means_divide_by_the_scored_tokens():
    completions = Completions(THREE, LENGTHS, reference=THREE - 6)
    assert completions.mean_logps.tolist() == [-2, -2, -9]
    assert completions.mean_log_ratio.tolist() == [3, 2, 6]


def test_log_ratio_keeps_the_gradient_of_the_policy_and_drops_that_of_the_reference():
    policy, reference = THREE.clone().requires_grad_(), THREE.clone().requires_grad_()
    completions = Completions(policy, LENGTHS, reference)
    (completions.log_ratio.sum() + completions.mean_log_ratio.sum()).backward()
    assert policy.grad.tolist() == pytest.approx([1 + 1 / 2, 1 + 1 / 3, 2])
    assert reference.grad is None


def test_mean_is_weighted_by_the_rows():
    batch = build("from_demonstrations", weights=torch.tensor([1.0, 2.0, 1.0]))
    assert batch.mean(torch.tensor([4.0, 0.0, 8.0])).item() == 3
    assert batch.mean(torch.tensor([4.0, 0.0, 8.0], dtype=torch.float64)).dtype == torch.float64


def test_tokens_sum_over_each_completion_and_an_absent_one_sums_to_0():
    tokens = Tokens(-torch.arange(1.0, 7.0), offsets=torch.tensor([0, 2, 2, 5, 6]))
    assert tokens.lengths.tolist() == [2, 0, 3, 1]
    assert tokens.sum(tokens.policy).tolist() == [-3, 0, -12, -6]


def test_gradient_of_a_sum_of_tokens_goes_to_the_tokens_of_its_completion():
    values = torch.zeros(6, requires_grad=True)
    (TOKENS.sum(values) * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert values.grad.tolist() == [1, 1, 10, 10, 10, 100]


def test_infinite_token_stays_in_its_completion():
    values = torch.tensor([0.0, 1.0, math.inf, 2.0, 3.0, 4.0])
    assert TOKENS.sum(values).tolist() == [1, math.inf, 4]


def test_spread_repeats_the_value_of_each_completion_over_its_tokens():
    assert TOKENS.spread(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1, 1, 2, 2, 2, 3]
    tokens = Tokens(-torch.ones(3), offsets=torch.tensor([0, 1, 1, 3]))
    assert tokens.spread(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1, 3, 3]


def test_places_start_from_0_in_every_completion():
    assert TOKENS.places().tolist() == [0, 1, 0, 1, 2, 0]
    assert TOKENS.places().dtype == torch.int64


def test_token_log_ratio_keeps_the_gradient_of_the_policy_and_drops_that_of_the_reference():
    policy, reference = (-torch.ones(6)).requires_grad_(), torch.full((6,), -3.0).requires_grad_()
    log_ratio = Tokens(policy, TOKENS.offsets, reference).log_ratio
    log_ratio.sum().backward()
    assert log_ratio.tolist() == [2] * 6
    assert policy.grad.tolist() == [1] * 6
    assert reference.grad is None


def test_token_log_ratio_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="log_ratio needs reference log-probs of every token, and this batch has none"):
        TOKENS.log_ratio  # noqa: B018


@pytest.mark.parametrize(
    ("reduction", "values", "normaliser"),
    [("sum", [4, 6, 9], [1, 1, 1]), ("sequence", [2, 2, 9], [1, 1, 1]), ("token", [4, 6, 9], [2, 3, 1])],
)
def test_nll_is_reduced_as_told(reduction, values, normaliser):
    found = Completions(THREE, LENGTHS).nll(reduction)
    assert [tensor.tolist() for tensor in found] == [values, normaliser]
    assert [tensor.dtype for tensor in Completions(THREE.double(), LENGTHS).nll(reduction)] == [torch.float64] * 2


@pytest.mark.parametrize("reduction", ["sum", "sequence", "token"])
def test_nll_slope_is_the_gradient_of_the_values_of_the_nll(reduction):
    policy = THREE.double().requires_grad_()
    completions = Completions(policy, LENGTHS)
    completions.nll(reduction)[0].sum().backward()
    assert completions.nll_slope(reduction).tolist() == policy.grad.tolist()


def test_gap_is_the_chosen_log_ratio_less_the_rejected_one():
    batch = build("from_pairs", reference_chosen=THREE - 5, reference_rejected=THREE - 3)
    assert batch.gap.tolist() == [5 - 2] * 3


def test_gap_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="log_ratio needs reference log-probs"):
        build("from_pairs").gap  # noqa: B018


def test_standard_deviation_counts_a_row_of_weight_w_as_w_rows():
    values = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    weighted = build("from_demonstrations", weights=torch.tensor([3.0, 1.0, 2.0]))
    repeated = values.repeat_interleave(torch.tensor([3, 1, 2]))
    assert weighted.std(values).item() == pytest.approx(repeated.std().item(), rel=1e-12)
    assert weighted.std(values).dtype == torch.float64
    assert build("from_demonstrations").std(values).item() == pytest.approx(values.std().item(), rel=1e-12)


def test_standard_deviation_of_one_row_is_0():
    one = PreferenceBatch.from_demonstrations(policy=THREE[:1], lengths=LENGTHS[:1])
    assert one.std(torch.tensor([5.0])).item() == 0


def test_undesirable_weight_is_one_per_row_unless_given():
    assert build("from_labels").undesirable_weight.tolist() == [1, 1, 1]
    given = torch.tensor([0.5, 2.0, 3.0])
    assert build("from_labels", undesirable_weight=given).undesirable_weight.equal(given)
    with pytest.raises(ValueError, match=r"undesirable_weight has shape \[2\]; the batch has \[3\]"):
        build("from_labels", undesirable_weight=given[:2])


@every_constructor
def test_draws_are_those_of_rows_0_1_2_unless_given(constructor):
    assert build(constructor).draws == Draws((0, 1, 2))
    given = Draws((7, 8, 9), seed=1, step=2)
    assert build(constructor, draws=given).draws is given


@every_constructor
@pytest.mark.parametrize("num_ids", [2, 4])
def test_draws_for_another_number_of_rows_are_refused(constructor, num_ids):
    with pytest.raises(ValueError, match=f"draws has {num_ids} row ids; the batch has 3 rows"):
        build(constructor, draws=Draws(tuple(range(num_ids))))


def test_batch_is_frozen():
    with pytest.raises(FrozenInstanceError):
        build("from_pairs").weights = torch.zeros(3)

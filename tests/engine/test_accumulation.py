from __future__ import annotations

import math
import random

import pytest
import torch

import prefopt
from prefopt.data.row import Completion, Row
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.errors import ConfigError, NonFiniteLossError, PluginError
from prefopt.weighted import WeightedSum
from tests.engine.rows import kind_of, random_rows
from tests.models import tiny_model

REGISTRY = prefopt.load_registry()
BUDGETS = {"8x1": 10**6, "about 4x2": 90, "about 2x4": 50, "1x8 and split": 21}


def objective(name):
    first, _, second = name.partition("+")
    if second:
        return WeightedSum(((1.0, REGISTRY.loss(first)), (0.2, REGISTRY.loss(second))))
    return REGISTRY.loss(name)


def gradient(model, reference, loss, rows, *, packed=True, chunked_head=True, **settings):
    model.zero_grad()
    ways = {"packed": packed, "chunked_head": chunked_head}
    frozen = None if reference is None else Scorer(reference, **ways)
    result = accumulate(Scorer(model, **ways), frozen, loss, rows, **settings)
    found = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return result, torch.cat(found).double()


def relative(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", [*sorted(REGISTRY.losses), "dpo+sft", "beta_dpo+sft", "tdpo2+sampo"])
@pytest.mark.parametrize(
    ("architecture", "dtype", "tolerance"),
    [
        ("gpt2", torch.float64, 1e-8),
        ("llama", torch.float32, 2e-5),
    ],
)
def test_gradient_does_not_depend_on_the_batch_cut(name, architecture, dtype, tolerance):
    loss = objective(name)
    model, reference = (tiny_model(architecture, seed=seed, dtype=dtype) for seed in (0, 1))
    rows = random_rows(kind_of(loss), 8)
    whole, truth = gradient(model, reference, loss, rows, tokens_per_microbatch=10**6)
    assert truth.norm() > 0
    cuts = [
        (batch, budget, {}) for budget in BUDGETS.values() for batch in (rows, random.Random(budget).sample(rows, 8))
    ]
    cuts += [(rows, 50, {"packed": False}), (rows, 50, {"chunked_head": False})]
    for batch, budget, ways in cuts:
        result, found = gradient(model, reference, loss, batch, tokens_per_microbatch=budget, **ways)
        assert relative(found, truth) <= tolerance
        assert result.loss == pytest.approx(whole.loss, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["labels", "rankings", "demonstrations"])
def test_gradient_does_not_depend_on_the_batch_cut_for_other_rows(kind):
    loss = {"labels": "kto", "rankings": "dpo", "demonstrations": "sft"}[kind]
    model, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    rows = random_rows(kind, 8)
    _, truth = gradient(model, reference, REGISTRY.loss(loss), rows, tokens_per_microbatch=10**6)
    for budget in BUDGETS.values():
        _, found = gradient(model, reference, REGISTRY.loss(loss), rows, tokens_per_microbatch=budget)
        assert relative(found, truth) <= 1e-8


def test_parameter_gradient_is_the_gradient_of_the_dense_computation():
    """An independent path: one row at a time, the whole vocabulary, the loss written out."""
    model, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    rows = random_rows("pairs", 5)
    _, found = gradient(model, reference, REGISTRY.loss("dpo", beta=0.3), rows, tokens_per_microbatch=40)

    def logp(network, row, completion):
        logits = network(torch.tensor([row.prompt + completion.ids])).logits[0].log_softmax(-1)
        places = [place for place, scored in enumerate(completion.scored) if scored]
        return sum(logits[len(row.prompt) + place - 1, completion.ids[place]] for place in places)

    model.zero_grad()
    total = 0
    for row in rows:
        ratios = [logp(model, row, own) - logp(reference, row, own).detach() for own in row.completions]
        total = total - row.weight * torch.nn.functional.logsigmoid(0.3 * (ratios[0] - ratios[1]))
    (total / sum(row.weight for row in rows)).backward()
    truth = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert relative(found, truth) <= 1e-10


def test_kto_at_microbatch_one_equals_the_whole_batch_and_sees_every_mismatched_row():
    model, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    rows = random_rows("labels", 6)
    whole, _ = gradient(model, reference, REGISTRY.loss("kto"), rows, tokens_per_microbatch=10**6)
    single, _ = gradient(model, reference, REGISTRY.loss("kto"), rows, tokens_per_microbatch=21)
    torch.testing.assert_close(single.output.metrics["kl"], whole.output.metrics["kl"], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "name", [name for name in sorted(REGISTRY.losses) if not REGISTRY.losses[name].expected_failures]
)
def test_a_row_of_weight_two_equals_the_row_twice(name):
    model, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    loss = REGISTRY.loss(name)
    first, second = (replace_weight(row, 1.0) for row in random_rows(kind_of(loss), 2))
    _, twice = gradient(model, reference, loss, [first, second, second], tokens_per_microbatch=10**6)
    _, heavy = gradient(model, reference, loss, [first, replace_weight(second, 2.0)], tokens_per_microbatch=10**6)
    assert relative(heavy, twice) <= 1e-10, name


def test_sequential_kl_reaches_the_parameters_as_the_dense_computation_says():
    """An independent path: whole next-token distributions of both models, autograd through log_softmax."""
    model, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    rows = random_rows("pairs", 5)

    def read(row, completion):
        ids = torch.tensor([row.prompt + completion.ids])
        places = [len(row.prompt) + place - 1 for place, scored in enumerate(completion.scored) if scored]
        policy = model(ids).logits[0].log_softmax(-1)[places]
        frozen = reference(ids).logits[0].log_softmax(-1)[places].detach()
        targets = ids[0, [place + 1 for place in places]]
        ratio = (policy - frozen).gather(1, targets[:, None]).sum()
        return ratio, (frozen.exp() * (frozen - policy)).sum()

    for name, options in (("tdpo1", {}), ("tdpo2", {"alpha": 0.7})):
        model.zero_grad()
        total = 0
        for row in rows:
            (ratio_w, kl_w), (ratio_l, kl_l) = (read(row, own) for own in row.completions)
            delta = kl_l - kl_w if name == "tdpo1" else 0.7 * (kl_l - kl_w.detach())
            total = total - row.weight * torch.nn.functional.logsigmoid(0.3 * (ratio_w - ratio_l - delta))
        (total / sum(row.weight for row in rows)).backward()
        truth = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        loss = REGISTRY.loss(name, beta=0.3, **options)
        for ways in ({}, {"packed": False}, {"chunked_head": False}):
            _, found = gradient(model, reference, loss, rows, tokens_per_microbatch=40, **ways)
            assert relative(found, truth) <= 1e-10


def test_a_packed_policy_takes_distributions_from_a_reference_that_is_not():
    model, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    rows, loss = random_rows("pairs", 5), REGISTRY.loss("tdpo1")
    whole, _ = gradient(model, reference, loss, rows, tokens_per_microbatch=10**6)
    plain = Scorer(reference, packed=False, chunked_head=False)
    mixed = accumulate(Scorer(model), plain, loss, rows, tokens_per_microbatch=10**6)
    torch.testing.assert_close(mixed.output.losses, whole.output.losses, rtol=1e-12, atol=0)


def test_distributions_of_a_stored_reference_are_refused():
    class Stored:
        def score(self, trees, *, tokens_per_microbatch, ranks=None):
            return Scorer(reference).score(trees, tokens_per_microbatch=tokens_per_microbatch)

    model, reference = (tiny_model("gpt2", seed=seed) for seed in (0, 1))
    with pytest.raises(ConfigError, match="loss tdpo1 needs the reference's next-token distributions"):
        accumulate(Scorer(model), Stored(), REGISTRY.loss("tdpo1"), random_rows("pairs", 2), tokens_per_microbatch=99)


def test_draws_depend_on_seed_step_and_row_and_not_on_the_batch():
    model, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    rows, loss = random_rows("pairs", 6), REGISTRY.loss("sampo")

    def losses(rows, **key):
        result, _ = gradient(model, reference, loss, rows, tokens_per_microbatch=60, **key)
        return result.output.losses

    first = losses(rows, seed=1, step=4)
    torch.testing.assert_close(losses(rows[::-1], seed=1, step=4).flip(0), first, rtol=1e-12, atol=0)
    torch.testing.assert_close(losses(rows[2:3], seed=1, step=4), first[2:3], rtol=1e-12, atol=0)
    for key in ({"seed": 2, "step": 4}, {"seed": 1, "step": 5}):
        assert not losses(rows, **key).equal(first)


def test_a_coupled_loss_may_normalise_by_what_it_saw():
    """Its mean runs over the pairs it has not won yet, however the batch is cut."""

    class Unwon(prefopt.PairLoss):
        """The gap of the pairs whose gap is negative."""

        name = "unwon"
        needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True)

        def values(self, batch):
            unwon = (batch.gap < 0).to(batch.gap.dtype).detach()
            return prefopt.LossOutput.from_terms(gap=(-unwon * batch.gap, unwon))

        def reward(self, completions):
            return completions.log_ratio

    model, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    rows = [replace_weight(row, 1.0) for row in random_rows("pairs", 10)]
    whole, truth = gradient(model, reference, Unwon(), rows, tokens_per_microbatch=10**6)
    unwon = whole.output.losses > 0
    assert 0 < unwon.sum() < 10
    assert whole.loss == pytest.approx(float(whole.output.losses[unwon].mean()), rel=1e-12)
    for budget in BUDGETS.values():
        result, found = gradient(model, reference, Unwon(), rows, tokens_per_microbatch=budget)
        assert result.loss == pytest.approx(whole.loss, rel=1e-12)
        assert relative(found, truth) <= 1e-8


def replace_weight(row, weight):
    return Row(row.kind, row.source, row.number, row.prompt, row.completions, row.desirable, weight, row.mismatched)


def test_token_mean_is_taken_over_the_whole_optimiser_batch():
    model = tiny_model("gpt2", dtype=torch.float64)
    rows = [replace_weight(row, 1.0) for row in random_rows("demonstrations", 6)]
    result, _ = gradient(model, None, REGISTRY.loss("sft"), rows, tokens_per_microbatch=21)
    scored = sum(row.completions[0].num_scored for row in rows)
    assert result.loss == pytest.approx(float(-result.policy.values.sum()) / scored, rel=1e-12)


def test_dpo_is_ln_2_on_every_row_where_the_policy_is_its_reference():
    model, reference = tiny_model("llama"), tiny_model("llama")
    result, _ = gradient(model, reference, REGISTRY.loss("dpo"), random_rows("pairs", 8), tokens_per_microbatch=60)
    assert (result.output.losses - math.log(2)).abs().max() <= 1e-6


def test_rankings_are_expanded_and_pairs_are_split_without_computing_twice():
    model, reference = tiny_model("llama"), tiny_model("llama", seed=1)
    rankings = random_rows("rankings", 2)
    result, _ = gradient(model, reference, REGISTRY.loss("dpo"), rankings, tokens_per_microbatch=10**6)
    assert len(result.output.losses) == 2 * 6
    assert len(result.policy.lengths) == 2 * 4
    pairs = random_rows("pairs", 3)
    result, _ = gradient(model, reference, REGISTRY.loss("kto"), pairs, tokens_per_microbatch=10**6)
    assert len(result.output.losses) == 6


def test_equal_scores_make_no_pair():
    own = tuple(Completion((token,), (True,), score) for token, score in ((3, 1.0), (4, 1.0), (5, 0.0)))
    row = Row("rankings", "random", 1, (1, 2), own)
    result, _ = gradient(
        tiny_model("llama"), tiny_model("llama"), REGISTRY.loss("dpo"), [row], tokens_per_microbatch=10
    )
    assert result.assembly.preferred == ((0, 2), (1, 2))


@pytest.mark.parametrize("name", ["dpo", "kto"])
@pytest.mark.parametrize("budget", [10**6, 21])
def test_a_loss_that_is_not_finite_names_its_rows(name, budget):
    rows = random_rows("pairs", 4)
    poisoned = 64  # no other row has it
    model, reference = (tiny_model("llama", vocab_size=65) for _ in range(2))
    own = Completion((poisoned, 5), (True, True))
    rows[2] = Row("pairs", "random", 3, rows[2].prompt, (own, rows[2].completions[1]), mismatched=rows[2].mismatched)
    with torch.no_grad():
        reference.get_input_embeddings().weight[poisoned] = float("nan")
    model.zero_grad()
    with pytest.raises(NonFiniteLossError, match="random row 3"):
        accumulate(Scorer(model), Scorer(reference), REGISTRY.loss(name), rows, tokens_per_microbatch=budget)


def test_a_normaliser_that_reads_log_probs_is_refused():
    class Wrong(prefopt.PairLoss):
        """A loss with a forbidden normaliser."""

        name = "wrong"
        needs = prefopt.Needs(rows={"pairs"})

        def values(self, batch):
            return -batch.chosen.policy

        def __call__(self, batch):
            values = self.values(batch)
            return prefopt.LossOutput(values, terms={"main": (values, values.detach().abs())})

        def reward(self, completions):
            return completions.policy

    with pytest.raises(PluginError, match="the normaliser of term 'main' depends on log-probs"):
        gradient(tiny_model("llama"), None, Wrong(), random_rows("pairs", 4), tokens_per_microbatch=10**6)


def test_a_gradient_that_vanishes_is_zero_and_not_absent():
    policy = Scorer(tiny_model("llama"))
    rows = random_rows("labels", 4)
    beyond = prefopt.get_loss("kto", beta=1e6)  # every sigmoid is at its end
    accumulate(policy, Scorer(tiny_model("llama", seed=1)), beyond, rows, tokens_per_microbatch=30)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in policy.parameters())

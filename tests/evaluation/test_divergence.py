from __future__ import annotations

import copy
from dataclasses import replace
from itertools import product

import pytest
import scipy.stats
import torch

from prefopt.data.row import Completion, Row
from prefopt.data.trees import grow_rows
from prefopt.engine.logps import Scorer
from prefopt.evaluation.divergence import divergence, kl_along
from prefopt.evaluation.sampling import sample
from tests.data.tokenizers import tokenizer
from tests.engine.rows import random_rows
from tests.models import tiny_model


def moved(model, scale=0.03):
    """A copy of the model a little away from it."""
    other = copy.deepcopy(model)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += scale * torch.randn_like(parameter)
    return other


def rows_of(prompt, completions):
    return [
        Row("demonstrations", "test", number, prompt, (Completion(ids, (True,) * len(ids)),))
        for number, ids in enumerate(completions, 1)
    ]


def test_kl_along_all_completions_weighted_by_their_chance_is_the_exact_kl():
    prompt, depth, end = (1, 3), 3, 2
    policy = tiny_model("llama", vocab_size=5)
    policy, other = Scorer(policy), Scorer(moved(policy, 0.2))
    every = {ids[: ids.index(end) + 1] if end in ids else ids for ids in product(range(5), repeat=depth)}
    rows = rows_of(prompt, sorted(every))
    own, others = (model.score(grow_rows(rows), tokens_per_microbatch=1000).sums for model in (policy, other))
    assert own.exp().sum() == pytest.approx(1, abs=1e-5)
    exact = (own.exp() * (own - others)).sum()
    estimate = (own.exp() * kl_along(policy, other, rows, tokens_per_microbatch=30)).sum()
    assert exact > 0.1
    assert estimate == pytest.approx(float(exact), rel=1e-4)
    assert kl_along(policy, policy, rows, tokens_per_microbatch=1000).abs().max() < 1e-5


def test_kl_of_samples_agrees_with_their_mean_log_ratio_and_scatters_less():
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words))
    other = moved(model)
    rows = sample(model, words, [(5, 6, 7), (8, 9)], num_samples=300, max_new_tokens=6, seed=0)
    policy, other = Scorer(model), Scorer(other)
    along = kl_along(policy, other, rows, tokens_per_microbatch=8192)
    own, others = (model.score(grow_rows(rows), tokens_per_microbatch=8192).sums for model in (policy, other))
    ratios = own - others
    error = float((ratios - along).std() / len(rows) ** 0.5)
    assert float(ratios.mean()) == pytest.approx(float(along.mean()), abs=3 * error)
    assert along.mean() > 3 * error
    assert along.std() < ratios.std()


def test_means_are_those_of_completions_and_of_tokens():
    rows = random_rows("pairs", 5)
    along = torch.arange(1.0, 11.0)
    found = divergence(along, rows)
    weights, totals = [row.weight for row in rows], [3, 7, 11, 15, 19]
    tokens = [sum(own.num_scored for own in row.completions) for row in rows]
    kl = sum(weight * total for weight, total in zip(weights, totals, strict=True))
    assert found["per_completion"]["mean"] == pytest.approx(kl / sum(weights) / 2)
    per_token = kl / sum(weight * count for weight, count in zip(weights, tokens, strict=True))
    assert found["per_token"]["mean"] == pytest.approx(per_token)
    assert found["per_completion"]["num"] == 5


def test_the_error_counts_rows_and_not_their_completions():
    rows = [replace(row, weight=1.0) for row in random_rows("pairs", 5)]
    found = divergence(torch.arange(1.0, 11.0), rows)
    assert found["per_completion"]["standard_error"] == pytest.approx(scipy.stats.sem([1.5, 3.5, 5.5, 7.5, 9.5]))

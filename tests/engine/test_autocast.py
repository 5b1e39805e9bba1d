"""Products in half precision, weights in float32: through every way the engine computes log-probs."""

from __future__ import annotations

import pytest
import torch

import prefopt
from prefopt.config import ModelConfig
from prefopt.data.trees import grow_rows
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.engine.parity import prove
from tests.engine.rows import random_rows
from tests.models import tiny_model

ROWS = random_rows("pairs", 6)
TREES = grow_rows(ROWS)
DTYPES = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def model(seed=0, architecture="llama"):
    found = tiny_model(architecture, seed=seed)
    with torch.no_grad():
        for own in found.parameters():
            own.mul_(0.4) if own.dim() > 1 else None  # as in a trained model
    return found


def logps(policy, **ways):
    return Scorer(policy, **ways).score(TREES, tokens_per_microbatch=10**6).values


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probs_are_float32_and_differ_by_the_rounding_of_products(dtype):
    policy = model()
    exact = logps(policy)
    for ways in ({}, {"packed": False}, {"chunked_head": False}):
        found = logps(policy, autocast=dtype, **ways)
        assert found.dtype == torch.float32
        error = (found - exact).abs().max()
        assert DTYPES[dtype] / 100 < error < DTYPES[dtype] * 20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_it_is_what_torch_gives_under_autocast(dtype, architecture):
    """An independent path: the model's own forward on one row at a time, in torch's own context."""
    policy = model(architecture=architecture)
    truth = []
    for tree in TREES:
        for _, own in tree.branches:
            ids = torch.tensor([tree.prompt + own.ids])
            with torch.no_grad(), torch.autocast("cpu", dtype):
                logits = policy(ids).logits[0]
            assert logits.dtype == dtype
            places = [len(tree.prompt) + place - 1 for place, scored in enumerate(own.scored) if scored]
            found = logits.float().log_softmax(-1)
            truth += [found[place, ids[0, place + 1]] for place in places]
    scorer, notes = prove(policy, TREES, autocast=dtype)
    assert (scorer.packed, scorer.autocast, notes) == (True, dtype, [])
    found = scorer.score(TREES, tokens_per_microbatch=10**6).values
    assert (found - torch.stack(truth)).abs().max() < DTYPES[dtype] * 20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ways", [{}, {"packed": False}, {"chunked_head": False}])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_float32_weights(dtype, ways, checkpointing):
    loss = prefopt.get_loss("simpo")

    def gradient(autocast):
        policy = model()
        if checkpointing:
            policy.train()
            policy.activation_checkpointing_enable()
        accumulate(Scorer(policy, autocast=autocast, **ways), None, loss, ROWS, tokens_per_microbatch=60)
        assert all(own.grad.dtype == torch.float32 for own in policy.parameters())
        return torch.cat([own.grad.flatten() for own in policy.parameters()])

    exact, found = gradient(None), gradient(dtype)
    assert 0 < torch.dist(found, exact) < 20 * DTYPES[dtype] * exact.norm()


def test_distributions_of_a_reference_are_computed_alike():
    policy = Scorer(model(), autocast=torch.bfloat16)
    same = Scorer(model(), autocast=torch.bfloat16)
    result = accumulate(policy, same, prefopt.get_loss("tdpo1"), ROWS, tokens_per_microbatch=60)
    assert result.policy.reference_kl.abs().max() < 1e-6
    torch.testing.assert_close(result.policy.values[:, 0], result.policy.values[:, 3], rtol=0, atol=1e-5)


def test_a_head_with_a_bias_keeps_its_gradient_in_float32():
    policy = model(architecture="gpt2")
    policy.lm_head.bias = torch.nn.Parameter(torch.zeros(64))
    accumulate(Scorer(policy, autocast=torch.bfloat16), None, prefopt.get_loss("simpo"), ROWS, tokens_per_microbatch=60)
    assert policy.lm_head.bias.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_it_is_refused_where_the_weights_are_not_float32(dtype):
    with pytest.raises(ValueError, match=f"model.autocast has no effect on weights in {dtype}: set model.dtype"):
        ModelConfig(name="m", dtype=dtype, autocast="bfloat16")

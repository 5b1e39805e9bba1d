from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prefopt.data.row import Completion
from prefopt.data.trees import Tree
from prefopt.engine.attention import Segments, _flex, attend, install, uninstall
from prefopt.engine.layout import lay_out
from prefopt.engine.logps import Scorer
from prefopt.training.trainer import _enable_checkpointing
from tests.models import tiny_model


def branch(slot, length):
    return slot, Completion(tuple(range(length)), (True,) * length)


TREES = [
    Tree((1,) * 9, (branch(0, 6), branch(1, 1), branch(2, 11))),
    Tree((2,) * 4, (branch(3, 8),)),
    Tree((3,), (branch(4, 3), branch(5, 2))),
]
SEGMENTS = lay_out(TREES).segments


class Layer(nn.Module):
    """As much of a model's attention layer as `attend` looks at."""

    def __init__(self, native="sdpa"):
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation=f"trees+{native}")


def heads(num_heads, num_groups, dtype=torch.float64):
    torch.manual_seed(0)
    length = sum(SEGMENTS.lengths)
    return [
        torch.randn(1, count, length, 8, dtype=dtype, requires_grad=True)
        for count in (num_heads, num_groups, num_groups)
    ]


def dense(query, key, value, scaling, softcap, window):
    """One square of scores over the whole row, and a mask read off positions and the mask of FlexAttention."""
    places = torch.arange(query.shape[2])
    seen = SEGMENTS.block_mask.mask_mod(0, 0, places[:, None], places[None])
    positions = lay_out(TREES).position_ids_RT[0]
    if window is not None:
        seen = seen & (positions[:, None] - positions[None] < window)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(("num_heads", "num_groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 5, 100])
def test_attention_over_trees_is_that_of_a_dense_mask(num_heads, num_groups, softcap, window):
    inputs = heads(num_heads, num_groups)
    found, _ = attend(Layer(), *inputs, None, scaling=0.3, trees=SEGMENTS, softcap=softcap, sliding_window=window)
    truth = dense(*inputs, 0.3, softcap, window)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
    along = torch.randn_like(truth)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, along), torch.autograd.grad(truth, inputs, along), rtol=0, atol=1e-12
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_gives_the_same():
    query, key, value = (each.detach() for each in heads(6, 2, torch.float32))
    grouped = query.view(2, 3, *query.shape[2:]), key.transpose(0, 1), value.transpose(0, 1)
    found = _flex(*grouped, 0.3, SEGMENTS).transpose(1, 2)
    truth, _ = attend(Layer(), query, key, value, None, scaling=0.3, trees=SEGMENTS)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention is compiled for a GPU")
def test_flex_attention_on_a_gpu_gives_the_same_gradient():
    segments = Segments(SEGMENTS.trees, torch.device("cuda"))
    found = []
    for native in ("flex_attention", "sdpa"):
        inputs = [each.detach().cuda().requires_grad_() for each in heads(6, 2, torch.float32)]
        out, _ = attend(Layer(native), *inputs, None, trees=segments)
        found.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])  # gemma2 attends eagerly, for its soft cap
def test_a_model_that_learned_trees_reads_and_writes_plain_rows_as_before(architecture):
    model = tiny_model(architecture).eval()
    ids = torch.tensor([[0, 5, 9, 4], [3, 1, 7, 8]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])

    def reads_and_writes():
        written = model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0)
        return model(ids, attention_mask=mask).logits[:, -1], written

    native = model.config._attn_implementation
    before, texts = reads_and_writes()
    install(model)
    install(model)
    assert model.config._attn_implementation == f"trees+{native}"
    after, same = reads_and_writes()
    assert torch.equal(after, before)
    assert torch.equal(same, texts)
    uninstall(model)
    assert model.config._attn_implementation == native


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_computed_again_under_checkpointing_see_the_same_trees(reentrant):
    plain, again = tiny_model("llama"), tiny_model("llama")
    _enable_checkpointing(again, use_reentrant=reentrant)
    again.enable_input_require_grads()
    layout = lay_out(TREES)
    for model in (plain, again):
        Scorer(model.train())(layout).sum().backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_saved_model_knows_nothing_of_trees(tmp_path):
    model = tiny_model("llama")
    install(model)
    model.save_pretrained(tmp_path)
    assert "trees" not in (tmp_path / "config.json").read_text()

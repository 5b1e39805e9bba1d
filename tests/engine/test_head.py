from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from prefopt.engine import head as head_module
from prefopt.engine.head import Head, Wanted


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setitem(head_module._CHUNK_ELEMENTS, "cpu", 37 * 5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("multiplier", [1.0, 0.3])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_chunks_equal_the_dense_head(bias, multiplier, softcap, dtype, tolerance):
    torch.manual_seed(0)
    linear = nn.Linear(8, 37, bias=bias, dtype=dtype)
    hidden = torch.randn(23, 8, dtype=dtype, requires_grad=True)
    targets, along = torch.randint(37, (23,)), torch.randn(23, dtype=dtype)
    logits = linear(hidden) * multiplier
    if softcap is not None:
        logits = (logits / softcap).tanh() * softcap
    dense = -cross_entropy(logits, targets, reduction="none")
    chunked = Head(linear, multiplier, softcap).token_logps(hidden, targets)
    torch.testing.assert_close(chunked, dense, rtol=0, atol=tolerance)
    inputs = [hidden, *linear.parameters()]
    found, truth = (torch.autograd.grad(logps @ along, inputs) for logps in (chunked, dense))
    torch.testing.assert_close(found, truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_statistics_of_the_distribution_equal_the_dense_ones(softcap, dtype, tolerance):
    torch.manual_seed(0)
    linear, other = nn.Linear(8, 37, dtype=dtype), nn.Linear(6, 37, dtype=dtype)
    hidden, hidden_of_reference = torch.randn(23, 8, dtype=dtype, requires_grad=True), torch.randn(23, 6, dtype=dtype)
    targets, along = torch.randint(37, (23,)), torch.randn(23, 4, dtype=dtype)
    logits = linear(hidden)
    policy = (logits if softcap is None else (logits / softcap).tanh() * softcap).log_softmax(1)
    reference = other(hidden_of_reference).log_softmax(1).detach()
    logps, kl = policy.gather(1, targets[:, None])[:, 0], (reference.exp() * (reference - policy)).sum(1)
    of_reference = reference.gather(1, targets[:, None])[:, 0]
    dense = torch.stack([logps, policy.detach().exp().square().sum(1).log(), kl, of_reference], 1)
    head = Head(linear, softcap=softcap)
    chunked = head.token_logps(hidden, targets, Wanted(Head(other).logits(hidden_of_reference)))
    torch.testing.assert_close(chunked, dense, rtol=0, atol=tolerance)
    inputs = [hidden, *linear.parameters()]
    found = torch.autograd.grad((chunked * along).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((dense * along).sum(), inputs), rtol=0, atol=tolerance)
    two = head.token_logps(hidden, targets, Wanted())
    torch.testing.assert_close(two, dense[:, :2], rtol=0, atol=tolerance)


def test_kl_of_a_head_with_itself_is_zero_to_rounding():
    torch.manual_seed(0)
    head, hidden = Head(nn.Linear(8, 37)), torch.randn(23, 8, requires_grad=True)
    kl = head.token_logps(hidden, torch.arange(23), Wanted(head.logits(hidden)))[:, 2]
    assert 0 <= kl.min() <= kl.max() < 1e-6
    assert torch.autograd.grad(kl.sum(), hidden)[0].abs().max() < 1e-7


@pytest.mark.parametrize("between", ["nothing", "another pass", "a pass without gradient", "a copy"])
def test_exponentials_kept_for_the_backward_pass_are_never_those_of_another_call(between):
    torch.manual_seed(0)
    linear = nn.Linear(8, 37, dtype=torch.float64)
    hidden = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1, 2, 3])
    head = Head(linear)
    truth = torch.autograd.grad(-cross_entropy(linear(hidden), targets, reduction="sum"), [hidden, linear.weight])
    logps = head.token_logps(hidden, targets).sum()
    if between == "another pass":
        head.token_logps(hidden.detach() * 2, targets)
    if between == "a pass without gradient":
        with torch.no_grad():
            head.token_logps(hidden * 3, targets)
    if between == "a copy":
        copy.deepcopy(head).token_logps(hidden * 4, targets)
    for last in (False, True):  # a graph kept for a second pass
        found = torch.autograd.grad(logps, [hidden, linear.weight], retain_graph=not last)
        torch.testing.assert_close(found, truth)


def test_gradient_equals_finite_differences():
    torch.manual_seed(0)
    linear = nn.Linear(4, 7, dtype=torch.float64)
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    head = Head(linear, 0.5, 2.0)
    assert torch.autograd.gradcheck(lambda hidden: head.token_logps(hidden, torch.arange(5)), (hidden,))


def test_bfloat16_products_are_accumulated_in_float32():
    torch.manual_seed(0)
    linear = nn.Linear(64, 300, bias=False)
    hidden, targets = torch.randn(50, 64), torch.randint(300, (50,))
    half = nn.Linear(64, 300, bias=False, dtype=torch.bfloat16)
    half.weight = nn.Parameter(linear.weight.detach().bfloat16())
    logps = Head(half).token_logps(hidden.bfloat16(), targets)
    assert logps.dtype == torch.float32
    exact = -cross_entropy(hidden.bfloat16().float() @ half.weight.float().t(), targets, reduction="none")
    assert (logps - exact).abs().max() < 0.05
    logps.sum().backward()
    assert half.weight.grad.dtype == torch.bfloat16


def test_a_frozen_head_gets_no_gradient():
    linear = nn.Linear(4, 7).requires_grad_(False)
    hidden = torch.randn(3, 4, requires_grad=True)
    Head(linear).token_logps(hidden, torch.arange(3)).sum().backward()
    assert hidden.grad is not None
    assert linear.weight.grad is None


MEASURE = """
import sys, torch
from prefopt.data.row import Completion
from prefopt.data.trees import grow
from prefopt.engine.layout import lay_out
from prefopt.engine.logps import Scorer
from prefopt.training.memory import peak_process_bytes
from transformers import LlamaConfig, LlamaForCausalLM
torch.set_num_threads(1)
model = LlamaForCausalLM(LlamaConfig(vocab_size=60_000, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                     num_attention_heads=2, tie_word_embeddings=True))
scorer = Scorer(model, chunked_head=sys.argv[1] == "chunked")
completion = Completion(tuple(range(800)), (True,) * 800)
before = peak_process_bytes()
scorer(lay_out(grow([((1, 2), completion)] * 2, [0, 1]))).sum().backward()
print(peak_process_bytes() - before)
"""


def test_no_tensor_of_tokens_times_vocabulary_exists():
    def peak(way):
        arguments = [sys.executable, "-W", "ignore", "-c", MEASURE, way]
        return int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()[-1])

    dense = 1600 * 60_000 * 4
    assert peak("chunked") < dense
    assert peak("dense") > 2 * dense

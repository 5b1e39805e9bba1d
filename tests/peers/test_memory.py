"""What never exists in memory: the logits of a whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.data.row import Completion, Row
from prefopt.engine import head as head_module
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.evaluation.rewards import HeldOut
from tests.peers.runs import REGISTRY

VOCABULARY = 4096
LENGTH = 100


class Largest(TorchDispatchMode):
    """Sees every tensor that any operation makes, of the backward pass too."""

    def __init__(self):
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.num_elements = max(self.num_elements, leaf.numel())
        return made


def small_model(seed):
    torch.manual_seed(seed)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape))


def long_rows(count=2):
    own = [tuple((place * step + 1) % VOCABULARY for place in range(LENGTH)) for step in (3, 5)]
    completions = tuple(Completion(ids, (True,) * LENGTH) for ids in own)
    return [
        Row("pairs", "long", number, (number, 7, 9), completions, mismatched=completions) for number in range(count)
    ]


@pytest.mark.parametrize("name", ["dpo", "kto", "sft", "wpo", "tdpo2"])
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "dense"])
def test_18_no_tensor_of_batch_times_length_times_vocabulary_exists(name, chunked, monkeypatch):
    """Training and evaluation; the dense head, which makes one, shows that it would be seen."""
    monkeypatch.setitem(head_module._CHUNK_ELEMENTS, "cpu", VOCABULARY * 16)
    loss, rows = REGISTRY.loss(name), long_rows()
    # Plain rows: the masks of packed ones are made in a way that such a watcher forbids.
    policy, reference = (Scorer(small_model(seed), packed=False, chunked_head=chunked) for seed in (0, 1))
    scored = sum(own.num_scored for row in rows for own in row.completions[: 1 if name == "sft" else 2])
    with Largest() as seen:
        accumulate(policy, reference, loss, rows, tokens_per_microbatch=10**6)
        held_out = HeldOut(rows, loss, tokens_per_microbatch=10**6)
        held_out.score_reference(reference)
        held_out.evaluate(policy)
    if chunked:
        # Nothing is larger than a chunk of tokens or the head's own weight, whichever is more.
        assert seen.num_elements <= max(16, 8) * VOCABULARY < scored * VOCABULARY / 4
    else:
        assert seen.num_elements >= scored * VOCABULARY


def test_18_the_peak_of_a_step_stays_below_the_logits_of_its_batch(monkeypatch):
    """1,600 tokens of 60,000 words are 384 MB in float32; packed, with a live reference, forward and backward."""
    monkeypatch.setitem(globals(), "VOCABULARY", 60_000)
    monkeypatch.setitem(globals(), "LENGTH", 400)
    policy, reference = (Scorer(small_model(seed)) for seed in (0, 1))
    rows = long_rows()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak of this process begins anew
    accumulate(policy, reference, REGISTRY.loss("dpo"), rows, tokens_per_microbatch=10**6)
    logits = 4 * LENGTH * VOCABULARY * 4
    assert 0 < resident("VmHWM") - before < logits / 2


def resident(what):
    """Bytes of this process in memory: now (VmRSS), or at most since the peak was set back (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024

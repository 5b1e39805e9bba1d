"""What is counted without weights is what the same micro-batch keeps and computes with them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from prefopt.data.trees import grow_rows
from prefopt.engine import attention, head
from prefopt.engine.logps import Scorer
from prefopt.plan.skeleton import Outline
from prefopt.plan.trace import trace
from tests.engine.rows import random_rows
from tests.models import tiny_model

FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
BY_HAND = {
    FLASH: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
    FLASH_BACKWARD: lambda grad, query, key, value, *_, **__: sdpa_backward_flop_count(grad, query, key, value),
}


def outline(name):
    return Outline(tiny_model(name).to("meta"))


def trees():
    return grow_rows(random_rows("pairs", 4))


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_what_the_forward_pass_saves_is_what_autograd_saves(name):
    model = tiny_model(name)
    scorer, saved = Scorer(model), {}
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    layout = scorer.lay_out(trees())
    given = {each.untyped_storage().data_ptr() for each in (layout.targets_N, layout.places_N, layout.input_ids_RT)}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own | given:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        values = scorer(layout)
    scratch = scorer.head._scratch._room.untyped_storage()
    truth = sum(saved.values()) + scratch.nbytes()
    planned = outline(name)
    found = trace(planned, planned.lay_out(trees()), device="cpu")
    assert sum(found.saved.values()) == pytest.approx(truth, rel=0.05), values.shape


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_arithmetic_is_what_torch_counts(name, monkeypatch):
    # torch's counter cannot see its own triangle being made; a mask with the same places takes the same products.
    corner = lambda queries, keys: torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)  # noqa: E731
    monkeypatch.setattr(attention, "causal_lower_right", corner)
    scorer = Scorer(tiny_model(name))
    with FlopCounterMode(display=False, custom_mapping=BY_HAND) as forward:
        values = scorer(scorer.lay_out(trees()))
    with FlopCounterMode(display=False, custom_mapping=BY_HAND) as backward:
        values.sum().backward()
    planned = outline(name)
    found = trace(planned, planned.lay_out(trees()), device="cpu")
    assert sum(found.forward.values()) == forward.get_total_flops()
    assert sum(found.backward.values()) == backward.get_total_flops()


def test_gradients_are_all_there_at_the_end_and_counted_apart():
    scorer = outline("llama")
    found = trace(scorer, scorer.lay_out(trees()), device="cpu")
    sizes = {}
    for number, size in found.events:
        sizes.pop(number) if not size else sizes.__setitem__(number, size)
    gradients = sum(each.numel() * each.element_size() for each in scorer.parameters())
    assert sum(sizes.values()) == gradients + found.kept
    again = trace(scorer, scorer.lay_out(trees()), device="cpu", accumulates=True)
    assert again.kept == found.kept
    assert again.peak.get("gradients", 0) == 0


def test_checkpointing_keeps_less_and_computes_layers_again():
    plain, checked = outline("llama"), outline("llama")
    checked.model.train()
    enable = getattr(checked.model, "activation_checkpointing_enable", None)
    (enable or checked.model.gradient_checkpointing_enable)(None)
    one, other = (trace(each, each.lay_out(trees()), device="cpu") for each in (plain, checked))
    assert other.saved["layers"] < one.saved["layers"] / 2
    assert other.peak_bytes < one.peak_bytes
    # Recomputing a layer ends with the last tensor that was saved: its last product (48 x 32) is left out.
    again = one.forward["layers"] + one.forward["attention"] - 2 * (2 * 48 * 32) * plain.lay_out(trees()).num_tokens
    assert sum(other.backward.values()) - sum(one.backward.values()) == again


def test_autocast_keeps_activations_in_half_the_bytes_and_the_weights_once_more():
    scorer = outline("llama")
    plain = trace(scorer, scorer.lay_out(trees()), device="cuda")
    narrow = trace(scorer, scorer.lay_out(trees()), device="cuda", autocast=torch.bfloat16)
    assert narrow.saved["attention"] < plain.saved["attention"]
    assert sum(narrow.forward.values()) == sum(plain.forward.values())


def test_nothing_of_the_engine_stays_changed():
    before = attention.causal_lower_right, dict(head._CHUNK_ELEMENTS), torch.is_autocast_enabled
    scorer = outline("llama")
    trace(scorer, scorer.lay_out(trees()), device="cpu", backward=False)
    assert (attention.causal_lower_right, dict(head._CHUNK_ELEMENTS), torch.is_autocast_enabled) == before
    assert all(each.grad is None for each in scorer.parameters())

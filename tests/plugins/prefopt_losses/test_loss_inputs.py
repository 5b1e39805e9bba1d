"""What goes in and what comes out: shapes, dtypes, leaks, missing inputs, weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_batches import CASES, REGISTRY, Example, examples, runs

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
FLOATS = [torch.float64, torch.float32, torch.bfloat16]


def batches(num_rows=3, dtype=torch.float64):
    """One batch of every kind, with everything in it."""
    logps = {name: torch.linspace(-9, -3, num_rows, dtype=dtype) - i for i, name in enumerate("abcd")}
    lengths = torch.arange(1, num_rows + 1)
    pairs = {
        "policy_chosen": logps["a"],
        "policy_rejected": logps["b"],
        "reference_chosen": logps["c"],
        "reference_rejected": logps["d"],
        "chosen_lengths": lengths,
        "rejected_lengths": lengths.flip(0),
    }
    labels = {
        "policy": logps["a"],
        "reference": logps["b"],
        "lengths": lengths,
        "desirable": lengths % 2 == 0,
        "mismatched_policy": logps["b"],
        "mismatched_reference": logps["c"],
    }
    demonstrations = {"policy_chosen": logps["a"], "chosen_lengths": lengths}
    return {"pairs": pairs, "labels": labels, "demonstrations": demonstrations}


def example_of(case, **inputs):
    loss = REGISTRY.loss(case.name, **dict(case.options))
    return Example(loss, case.kind, {**batches()[case.kind], **inputs})


def reduced(output, weights):
    """The engine's rule: per term, sum of weight x value over sum of weight x normaliser."""
    terms = output.terms or {"loss": (output.losses, torch.ones_like(output.losses))}
    return sum((weights * values).sum() / (weights * normaliser).sum() for values, normaliser in terms.values())


@every_loss
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("length_dtype", [torch.int64, torch.int32, torch.float64], ids=str)
def test_output_has_one_value_per_row_in_the_dtype_of_the_policy(case, dtype, length_dtype):
    example = example_of(case).to(dtype)
    inputs = {name: t.to(length_dtype) if "lengths" in name else t for name, t in example.inputs.items()}
    example = Example(example.loss, example.kind, inputs)
    output = example.loss(example.batch())
    tensors = {"losses": output.losses, **output.metrics}
    for source in ("closed_form", "autograd"):
        gradients = getattr(example, source)()
        assert set(gradients) == set(example.policies)
        tensors |= {f"{source} {name}": gradient for name, gradient in gradients.items()}
    for name, pair in output.terms.items():
        tensors |= {f"{name} values": pair[0], f"{name} normaliser": pair[1]}
    assert {name: (list(t.shape), t.dtype) for name, t in tensors.items()} == dict.fromkeys(tensors, ([3], dtype))


@every_loss
def test_metrics_are_detached(case):
    example = example_of(case)
    leaves = {name: example.inputs[name].clone().requires_grad_() for name in example.policies}
    output = example.loss(example.batch(**leaves))
    assert output.losses.requires_grad
    assert output.metrics or case.name == "sft"
    assert not any(metric.requires_grad for metric in output.metrics.values())


@every_loss
def test_nothing_but_the_policy_gets_a_gradient(case):
    example = example_of(case, **({} if case.kind == "demonstrations" else {"weights": torch.ones(3).double()}))
    leaves = {name: t.clone().requires_grad_() for name, t in example.inputs.items() if t.is_floating_point()}
    example.losses(**leaves).sum().backward()
    with_gradient = {name for name, leaf in leaves.items() if leaf.grad is not None and leaf.grad.any()}
    assert with_gradient == set(example.policies)
    assert all(leaf.grad is None for name, leaf in leaves.items() if "reference" in name)


@every_loss
def test_inputs_are_left_as_they_were(case):
    example = example_of(case)
    before = {name: tensor.clone() for name, tensor in example.inputs.items()}
    example.losses(), example.closed_form()
    assert all(tensor.equal(before[name]) for name, tensor in example.inputs.items())


@every_loss
@pytest.mark.parametrize("kind", ["pairs", "labels", "demonstrations"])
def test_batch_of_another_kind_is_refused_by_name(case, kind):
    loss = example_of(case).loss
    if kind in loss.needs.rows:
        return
    batch = Example(loss, kind, batches()[kind]).batch()
    with pytest.raises(ValueError, match=rf"loss {loss.name} reads .*; the batch holds {kind}"):
        loss(batch)


@pytest.mark.parametrize("case", [case for case in CASES if REGISTRY.losses[case.name].needs.reference], ids=str)
def test_missing_reference_is_refused_by_name(case):
    example = example_of(case)
    without = {name: tensor for name, tensor in example.inputs.items() if not name.startswith("reference")}
    with pytest.raises(
        ValueError, match=f"loss {case.name} needs reference log-probs; '(chosen|completions)' has none"
    ):
        Example(example.loss, example.kind, without).losses()


@pytest.mark.parametrize("case", [case for case in CASES if not REGISTRY.losses[case.name].needs.reference], ids=str)
def test_loss_without_a_reference_ignores_one_that_is_there(case):
    example = example_of(case)
    without = {name: tensor for name, tensor in example.inputs.items() if not name.startswith("reference")}
    assert example.losses().equal(Example(example.loss, example.kind, without).losses())


def test_missing_mismatched_completions_are_refused_by_name():
    inputs = {name: t for name, t in batches()["labels"].items() if not name.startswith("mismatched")}
    with pytest.raises(ValueError, match="loss kto needs mismatched completions; the batch has none"):
        Example(REGISTRY.loss("kto"), "labels", inputs).losses()


@every_loss
@runs(10)
@given(data=st.data())
def test_row_of_weight_two_equals_the_row_twice(case, data):
    example = data.draw(examples(case))
    num_rows = len(example.batch())
    counts = torch.tensor(data.draw(st.lists(st.integers(1, 3), min_size=num_rows, max_size=num_rows)))
    ones = {"weights": torch.ones(num_rows, dtype=torch.float64)}
    plain = Example(example.loss, example.kind, example.inputs | ones)
    weighted = Example(example.loss, example.kind, example.inputs | {"weights": counts.double()})
    torch.testing.assert_close(
        reduced(weighted.loss(weighted.batch()), counts.double()),
        reduced((twice := plain.repeated(counts)).loss(twice.batch()), twice.inputs["weights"]),
        rtol=1e-9,
        atol=1e-12,
    )


@every_loss
@runs(10)
@given(data=st.data())
def test_row_order_does_not_matter(case, data):
    example = data.draw(examples(case))
    order = torch.tensor(data.draw(st.permutations(range(len(example.batch())))))
    shuffled = Example(example.loss, example.kind, {name: t[order] for name, t in example.inputs.items()})
    torch.testing.assert_close(shuffled.losses(), example.losses()[order], rtol=1e-12, atol=1e-12)
    for name, gradient in shuffled.closed_form().items():
        torch.testing.assert_close(gradient, example.closed_form()[name][order], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "kto"], ids=str)
@runs(10)
@given(data=st.data())
def test_rows_of_an_uncoupled_loss_do_not_see_each_other(case, data):
    example = data.draw(examples(case))
    assert not example.loss.needs.coupled
    alone = [
        Example(example.loss, example.kind, {n: t[[i]] for n, t in example.inputs.items()})
        for i in range(len(example.batch()))
    ]
    torch.testing.assert_close(torch.cat([row.losses() for row in alone]), example.losses(), rtol=1e-12, atol=0)

"""What makes BCO on labels what it is: a shift half way between the classes, and density ratios from the data."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def labels(log_ratios, desirable, **others):
    log_ratios = torch.tensor(log_ratios, dtype=torch.float64)
    return prefopt.PreferenceBatch.from_labels(
        policy=log_ratios - 50,
        reference=torch.full_like(log_ratios, -50),
        lengths=torch.ones_like(log_ratios),
        desirable=torch.tensor(desirable),
        **others,
    )


def shift(output):
    (value,) = set(output.metrics["shift"].tolist())
    return value


def test_midpoint_does_not_lean_towards_the_larger_class():
    batch = labels([8.0, 0.0, 0.0, 0.0], [True, False, False, False])
    assert shift(REGISTRY.loss("bco", beta=1.0)(batch)) == 4
    assert shift(REGISTRY.loss("bco", beta=1.0, shift="mean")(batch)) == 2


@pytest.mark.parametrize("kind", ["midpoint", "mean"])
@pytest.mark.parametrize("label", [True, False])
def test_class_never_seen_does_not_count(kind, label):
    loss = REGISTRY.loss("bco", beta=1.0, shift=kind)
    first = loss(labels([4.0, 8.0], [label, label]))
    assert shift(first) == 6
    second = loss(labels([0.0, 0.0], [not label, not label], state=first.state))
    assert shift(second) == 3


def test_each_class_has_a_running_mean_of_its_own():
    loss = REGISTRY.loss("bco", beta=1.0)
    first = loss(labels([6.0, 6.0, 0.0], [True, True, False]))
    second = loss(labels([0.0, 4.0], [True, False], state=first.state))
    assert shift(second) == (4 + 2) / 2
    weighted = loss(labels([6.0, 0.0, 2.0], [True, True, False], weights=torch.tensor([2.0, 1.0, 5.0])))
    assert shift(weighted) == (4 + 2) / 2


def test_density_ratio_weighs_undesirable_rows_alone():
    ratios = torch.tensor([3.0, 3.0], dtype=torch.float64)
    plain = REGISTRY.loss("bco", beta=1.0)(labels([2.0, 1.0], [True, False]))
    weighed = REGISTRY.loss("bco", beta=1.0)(labels([2.0, 1.0], [True, False], undesirable_weight=ratios))
    assert (weighed.losses / plain.losses).tolist() == pytest.approx([1, 3], rel=1e-12)


def test_state_is_updated_before_use_and_not_in_place():
    loss = REGISTRY.loss("bco", beta=1.0)
    before = loss(labels([3.0, 1.0], [True, False]))
    assert before.losses.tolist() == pytest.approx([math.log1p(math.exp(-1))] * 2, rel=1e-12)
    kept = {name: value.clone() for name, value in before.state.items()}
    loss(labels([9.0, 9.0], [True, False], state=before.state))
    assert before.state == kept

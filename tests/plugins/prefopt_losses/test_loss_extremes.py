"""At the ends of float32 and bfloat16: never NaN, finite where the true number fits, else the right infinity."""

import itertools

import pytest
import torch
from mpmath import isinf, mpf
from random_batches import CASES, REGISTRY, Example

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
# Log-probs of 0 in both signs: log_softmax gives either for a certain token.
LOGPS = [0.0, -0.0, -1e-3, -30.0, -300.0, -1e4]
LENGTHS = [1, 512]
SETTINGS = {
    "dpo": [{"beta": 0.01}, {"beta": 0.1}, {"beta": 10.0}],
    "ipo": [{"tau": 0.01}, {"tau": 1.0}],
    "kto": [{"beta": 0.1}, {"beta": 10.0}, {"beta": 0.1, "desirable_weight": 0.0}],
    "simpo": [{}, {"beta": 10.0, "gamma": 0.0}],
    "orpo": [{}, {"lambda_": 10.0}],
    "sft": [{}],
}


def extreme_examples(case, dtype):
    """Every combination of the log-probs above, so that log-ratios reach +-1e4 and their gap +-2e4."""
    for settings in SETTINGS[case.name]:
        loss = REGISTRY.loss(case.name, **settings, **dict(case.options))
        for length in LENGTHS:
            names = {
                "pairs": ["policy_chosen", "reference_chosen", "policy_rejected", "reference_rejected"],
                "labels": ["policy", "reference"],
                "demonstrations": ["policy_chosen"],
            }[case.kind]
            if not loss.needs.reference:
                names = [name for name in names if name.startswith("policy")]
            columns = zip(*itertools.product(LOGPS, repeat=len(names)), strict=True)
            inputs = {name: torch.tensor(column, dtype=dtype) for name, column in zip(names, columns, strict=True)}
            num_rows = len(inputs[names[0]])
            lengths = torch.full((num_rows,), length)
            if case.kind == "pairs":
                yield Example(loss, case.kind, inputs | {"chosen_lengths": lengths, "rejected_lengths": lengths})
            elif case.kind == "demonstrations":
                yield Example(loss, case.kind, inputs | {"chosen_lengths": lengths})
            else:
                # The kl is at its floor, in between and as large as the log-ratios.
                for label, kl in itertools.product([True, False], [-1e4, 0.0, 300.0, 1e4]):
                    yield Example(
                        loss,
                        case.kind,
                        inputs
                        | {
                            "lengths": lengths,
                            "desirable": torch.full((num_rows,), label),
                            "mismatched_policy": torch.full((num_rows,), min(kl, 0.0), dtype=dtype),
                            "mismatched_reference": torch.full((num_rows,), -max(kl, 0.0), dtype=dtype),
                        },
                    )


def assert_fits(found, expected, dtype):
    """`expected` holds numbers of any size; None where no true number exists and anything but NaN will do."""
    largest = mpf(torch.finfo(dtype).max)
    assert found.dtype == dtype
    for index, (actual, true) in enumerate(zip(found.tolist(), expected, strict=True)):
        assert actual == actual, f"row {index} is NaN; the true number is {true}"
        if true is None:
            continue
        if isinf(true) or abs(true) > largest:
            assert actual == (float("inf") if true > 0 else -float("inf")), f"row {index}: {actual} for {true}"
        else:
            assert abs(actual) <= largest, f"row {index} is {actual}; the true number {true} fits"


@pytest.mark.parametrize("case", CASES, ids=str)
@DTYPES
def test_loss_is_finite_wherever_the_true_value_fits(case, dtype):
    for example in extreme_examples(case, dtype):
        assert_fits(example.losses(), example.paper_values(), dtype)


@pytest.mark.parametrize("source", ["autograd", "closed_form"])
@pytest.mark.parametrize("case", CASES, ids=str)
@DTYPES
def test_gradient_is_finite_wherever_the_true_value_fits(case, dtype, source):
    for example in extreme_examples(case, dtype):
        expected = example.paper_gradients()
        for name, gradient in getattr(example, source)().items():
            assert_fits(gradient, expected[name], dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@DTYPES
def test_metrics_are_never_nan(case, dtype):
    for example in extreme_examples(case, dtype):
        assert not any(metric.isnan().any() for metric in example.loss(example.batch()).metrics.values())

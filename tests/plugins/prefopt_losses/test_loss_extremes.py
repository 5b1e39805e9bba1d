"""At the ends of float32 and bfloat16: never NaN, finite where the true number fits, else the right infinity."""

import itertools
import math

import pytest
import torch
from mpmath import isnan, mpf
from truth import LOGPS, REGISTRY, below_certainty, entries, every_setting, rows_of, slope, true_values

from prefopt.testing.extremes import extreme_cases, extreme_losses, misfits

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
# A slope that is infinite where a completion is certain is a number beyond any dtype a hair below; one that is 0 / 0
# there depends on which of two hairs is the shorter.
HAIRS = [(mpf(10) ** -45, mpf(10) ** -45), (mpf(10) ** -45, mpf(10) ** -60), (mpf(10) ** -60, mpf(10) ** -45)]


def fits(true, found, dtype):
    return not misfits(torch.tensor(true, dtype=torch.float64), torch.tensor(found, dtype=dtype))


def small_cases(setting, dtype, num_rows):
    """Some rows of each grid, those with an infinite loss or slope among them; whole batches where rows are coupled."""
    starts = itertools.count(step=37)
    for loss in extreme_losses(REGISTRY.losses[setting.name]):
        if any(getattr(loss, name) != value for name, value in setting.options.items()):
            continue
        grid = [case for case in extreme_cases(loss, dtype) if case.kind == setting.kind]
        for case in grid[:: max(1, len(grid) // 3)]:
            if loss.needs.coupled:
                yield case
                continue
            output = case.output().losses
            finite = output.isfinite()
            for gradient in case.closed_form().values():
                if len(gradient) == len(case):
                    finite &= gradient.isfinite().view(len(case), -1).all(1)
            odd = (~finite).nonzero().flatten().tolist()
            step = max(1, len(case) // num_rows)
            start = next(starts) % step  # other rows each time
            yield case.rows(sorted({*range(start, len(case), step), *odd[:num_rows]}))


def num_certain(row):
    """How many log-probs of the row are 0; where it is several, an infinite slope is one of many limits."""
    logps = [row[key] for key in LOGPS if key in row]
    return sum((one if isinstance(one, list) else [one]).count(0) for one in logps)


def outcome(true):
    """What a number becomes in a small dtype."""
    return 0 if abs(true) < 1e38 else math.copysign(math.inf, float(true))


@every_setting
@DTYPES
def test_loss_is_finite_wherever_the_true_value_fits(setting, dtype):
    for case in small_cases(setting, dtype, num_rows=20):
        for row, actual, true in zip(rows_of(case), case.output().losses.tolist(), true_values(case), strict=True):
            assert not math.isnan(actual), f"{case.loss} at {row} is NaN; the true number is {float(true)}"
            if not isnan(true):
                assert fits(float(true), actual, dtype), (
                    f"{case.loss} at {row} is {actual}; the true number is {float(true)}"
                )


@every_setting
@DTYPES
def test_gradient_is_finite_wherever_the_true_slope_fits(setting, dtype):
    for case in small_cases(setting, dtype, num_rows=3):
        rows, sources = rows_of(case), (case.closed_form(), case.autograd())
        nearby = [below_certainty(rows, *hair) for hair in HAIRS]
        for entry in entries(case):
            name, index, row, _ = entry
            certain = num_certain(rows[row])
            slopes = [slope(case, entry, rows=near) for near in nearby[: 3 if certain else 1]]
            outcomes = {*map(outcome, slopes)}
            where = f"{name} of {case.loss} at {rows[row]}, of slope {float(slopes[0])},"
            for source in sources:
                actual = source[name].flatten()[index].item() if name in source else 0.0
                assert not math.isnan(actual), f"{where} is NaN"
                if outcomes == {0} or (len(outcomes) == 1 and certain < 2):
                    assert fits(float(slopes[0]), actual, dtype), f"{where} is {actual}"

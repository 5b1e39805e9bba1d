"""Every closed form is the derivative of its paper's formula, taken in arbitrary precision."""

from hypothesis import given
from hypothesis import strategies as st
from truth import entries, every_setting, random_cases, rounding, rows_of, runs, slope


@every_setting
@runs(8)
@given(data=st.data())
def test_closed_form_is_the_derivative_of_the_formula(setting, data):
    case = data.draw(random_cases(setting))
    found, rows = case.closed_form(), rows_of(case)
    bounds = {name: rounding(case, lambda case, name=name: case.closed_form()[name]).flatten() for name in found}
    for entry in entries(case):
        name, index = entry[:2]
        actual = found[name].flatten()[index].item() if name in found else 0.0
        slack = bounds[name][index].item() if name in found else 0.0

        def fits(low, high, actual=actual, slack=slack):
            return low - 1e-9 * abs(low) - slack <= actual <= high + 1e-9 * abs(high) + slack or actual == low

        true = float(slope(case, entry, rows=rows))  # infinite where float64 cannot hold it
        if not fits(true, true):  # on a kink any number between the slopes of both sides is right
            sides = [float(slope(case, entry, direction, rows)) for direction in (-1, 1)]
            assert fits(min(sides), max(sides)), f"{name}[{index}] is {actual}; the formula's slope is {true}"

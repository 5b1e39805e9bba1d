import pytest

from prefopt.evaluation.intervals import wilson


def test_interval_solves_the_score_equation():
    """Its ends are where the share lies 1.96 standard errors away, the error taken at the end itself."""
    for successes, trials in ((7, 20), (0.5, 3), (40, 64)):
        for end in wilson(successes, trials):
            distance = abs(successes / trials - end) / (end * (1 - end) / trials) ** 0.5
            assert distance == pytest.approx(1.959963984540054, rel=1e-9)


def test_interval_stays_inside_0_and_1():
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0

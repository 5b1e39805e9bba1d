import copy
import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import rankdata, ttest_rel

from prefopt.bench.results import Results
from prefopt.errors import ConfigError
from tests.bench.records import records as made_up_records

MAX_KL = 2.0
HELD_OUT, VALIDATION = (0, 1, 2, 3, 4), (10, 11, 12)
REFERENCE_REWARD = 0.5


def record(method, gain, kl, split="held_out", *, task="easy", knobs=None, seeds=None, **changes):
    """A record of gain and kl, [T, K] for all seeds alike or [T, S, K].

    The optimum gains 1 at every KL but 0, so that its area is MAX_KL.
    """
    seeds = list(seeds if seeds is not None else HELD_OUT if split == "held_out" else VALIDATION)
    kl, gain = np.broadcast_arrays(np.asarray(kl, float), np.asarray(gain, float))
    if kl.ndim < 3:
        kl, gain = (np.repeat(np.atleast_2d(own)[:, None], len(seeds), 1) for own in (kl, gain))
    num_trials, _, num_steps = kl.shape
    knobs = knobs or {"noise": 0.0}
    made = {
        "cell": f"{task}-{'-'.join(map(str, knobs.values()))}-{method}-{split}",
        "suite": "own",
        "task": task,
        "knobs": knobs,
        "method": method,
        "split": split,
        "status": "done",
        "error": None,
        "seeds": seeds,
        "trials": [{"beta": 0.1 * (trial + 1)} for trial in range(num_trials)],
        "steps": [100 * (step + 1) for step in range(num_steps)],
        "metrics": {
            "reward": nested(gain + REFERENCE_REWARD),
            "kl": nested(kl),
            "win_rate": nested(0.5 + 0.1 * gain),
            "chosen_log_ratio": nested(-kl),
            "rejected_log_ratio": nested(-2 * kl),
        },
        "reference_reward": [REFERENCE_REWARD] * len(seeds),
        "max_kl": MAX_KL,
        "optimum": {
            "kl": [0.0, 1e-12, MAX_KL],
            "reward": [[REFERENCE_REWARD, *[1 + REFERENCE_REWARD] * 2]] * len(seeds),
        },
        "knows_reward": False,
        "versions": {"torch": "2.9.0"},
        "commit": "1606c72",
        "seconds": 2.0,
        "finished": "2026-11-24T21:00:00+00:00",
    }
    return made | changes


def nested(values):
    return [[[None if np.isnan(v) else float(v) for v in row] for row in rows] for rows in values]


def both(method, gain, kl=1.0, **options):
    """Both cells of a method with the same gain in each; a list of gains is one for each held-out seed."""
    by_seed = np.broadcast_to(np.asarray(gain, float), len(options.get("seeds", HELD_OUT)))
    return [
        record(method, by_seed.mean(), kl, "validation", **{**options, "seeds": VALIDATION}),
        record(method, by_seed[None, :, None], np.full((1, len(by_seed), 1), kl), **options),
    ]


def failure(method, split="held_out", **options):
    return record(method, 0.0, 0.0, split, **options) | {
        "status": "failed",
        "error": "it ran out of luck",
        "metrics": {},
    }


def area_of(gain, kl=1.0):
    """Of a hull of one point within the range, as a share of the optimum's, which is MAX_KL."""
    return gain * (MAX_KL - kl / 2) / MAX_KL


def only(results, method):
    (score,) = (score for (_, name), score in results.scores.items() if name == method)
    return score


def row(board, method):
    (found,) = (own for own in board.rows if own.method == method)
    return found


# A score -------------------------------------------------------------------------------------------------------------


def test_selection_does_not_see_held_out_values():
    # On validation trial 0 is best; on the held-out seeds trial 1 is far better, which nobody may know.
    records = [
        record("x", [[0.6], [0.4]], [[1.0], [1.0]], "validation"),
        record("x", [[0.3], [0.9]], [[1.0], [1.0]]),
    ]
    score = only(Results.of(records), "x")
    assert [(point.trial, point.validation_gain, point.gain) for point in score.points] == [
        (0, pytest.approx(0.6), pytest.approx(0.3))
    ]
    assert score.best.trial == 0
    assert score.area.mean == pytest.approx(area_of(0.3))
    assert [trial.selected for trial in score.trials] == [True, False]


def test_area_counts_the_selected_points_of_each_seed_and_never_falls_below_the_reference():
    gains = np.array([0.5, -0.5, 0.2, 0.5, 0.5])
    score = only(Results.of([*both("x", gains)]), "x")
    assert score.area.values == pytest.approx(area_of(np.maximum(gains, 0.0)))
    assert score.area.mean == pytest.approx(np.mean(score.area.values))
    low, high = score.area.interval
    assert 0.0 < low < score.area.mean < high


def test_validation_hull_keeps_the_end_of_its_last_edge_and_nothing_behind_it():
    records = [record("x", [[0.5, 0.8, 0.9]], [[1.0, 3.0, 5.0]], split) for split in ("validation", "held_out")]
    score = only(Results.of(records), "x")
    assert [point.step for point in score.points] == [100, 200]
    assert score.best.step == 100  # the best within the range
    assert score.area.mean == pytest.approx((0.5 * 0.5 + (0.5 + 0.65) / 2) / MAX_KL)


def test_point_that_diverged_on_one_validation_seed_is_not_selected():
    kl = np.ones((2, 3, 1))
    gain = np.array([[0.9, np.nan, 0.9], [0.4, 0.4, 0.4]])[..., None]
    records = [record("x", gain, kl, "validation"), record("x", [[0.9], [0.4]], [[1.0], [1.0]])]
    assert [point.trial for point in only(Results.of(records), "x").points] == [1]


def test_held_out_points_that_are_not_finite_are_told():
    gain = np.full((1, 5, 1), 0.5)
    gain[0, 3] = np.nan
    results = Results.of([record("x", 0.5, 1.0, "validation"), record("x", gain, np.ones((1, 5, 1)))])
    score = only(results, "x")
    assert score.area.values == pytest.approx([area_of(0.5)] * 3 + [0.0, area_of(0.5)])
    assert score.points[0].gain == pytest.approx(0.5)
    assert len(score.at_best["win_rate"].values) == 4
    (omission,) = results.missing
    assert "seed 3" in omission.reason
    assert omission.cell == "easy-0.0-x-held_out"


def test_gap_is_what_the_optimum_gains_more_at_half_the_range():
    score = only(Results.of(both("x", 0.6, kl=0.5)), "x")
    assert score.gain.mean == pytest.approx(0.6)
    assert score.gap.mean == pytest.approx(1.0 - 0.6)
    assert score.gap_share.mean == pytest.approx(0.4)
    assert only(Results.of(both("x", 0.6, kl=2.0)), "x").gap.mean == pytest.approx(0.7)


def test_metrics_are_those_of_the_best_point_on_held_out_seeds():
    records = [record("x", [[0.3, 0.6]], [[0.5, 1.5]], "validation"), record("x", [[0.3, 0.4]], [[0.5, 1.0]])]
    score = only(Results.of(records), "x")
    assert (score.best.step, score.best.hyperparameters) == (200, {"beta": 0.1})
    assert score.at_best["win_rate"].mean == pytest.approx(0.54)
    assert score.at_best["chosen_log_ratio"].mean == pytest.approx(-1.0)
    assert "exploitability" not in score.at_best


def test_method_that_does_not_train_is_at_step_0():
    steps = {"steps": [100, 200, 400]}
    assert [point.step for point in only(Results.of(both("x", 0.5, **steps)), "x").points] == [0]
    trained = [
        record("x", [[0.2, 0.3, 0.4]], [[0.5, 1.0, 1.5]], split, **steps) for split in ("validation", "held_out")
    ]
    assert only(Results.of(trained), "x").best.step == 400


def test_sensitivity_is_the_share_of_trials_near_the_best():
    gains = [[0.50], [0.48], [0.47], [0.1]]  # 0.475 is 95 % of the best
    records = [record("x", gains, np.ones((4, 1)), split) for split in ("validation", "held_out")]
    score = only(Results.of(records), "x")
    assert score.sensitivity == 0.5
    assert [trial.area for trial in score.trials] == pytest.approx(area_of(np.array(gains)[:, 0]))
    assert score.trials[3].hyperparameters == {"beta": pytest.approx(0.4)}


def test_method_that_never_beats_the_reference_has_no_point_and_area_0():
    score = only(Results.of(both("x", -0.5)), "x")
    assert (score.points, score.best, score.at_best, score.sensitivity) == ((), None, {}, None)
    assert score.area.mean == 0.0


def test_task_without_an_optimum_has_the_mean_gain_and_stays_off_the_leaderboard():
    results = Results.of([*both("x", 0.6, optimum=None), *both("y", 0.2, optimum=None)])
    score = only(results, "x")
    assert score.area.mean == pytest.approx(area_of(0.6))  # the optimum of the other tests has mean gain 1
    assert (score.gap, score.gap_share) == (None, None)
    assert (results.leaderboard, results.pairs, results.optima) == (None, (), {})
    (board,) = results.boards.values()
    assert board.best == "x"


def test_frontier_is_the_mean_hull_and_its_band_holds_it():
    results = Results.of(both("x", [0.2, 0.4, 0.6, 0.4, 0.4]))
    frontier = only(results, "x").frontier
    assert (frontier.kl[0], frontier.kl[-1]) == (0.0, MAX_KL)
    assert frontier.gain[30:] == pytest.approx([0.4] * 31)
    assert frontier.gain[15] == pytest.approx(0.2)
    assert all(low <= gain <= high for low, gain, high in zip(frontier.low, frontier.gain, frontier.high, strict=True))
    (optimum,) = results.optima.values()
    assert optimum.gain[1:] == pytest.approx([1.0] * 60)


def test_every_number_names_its_cells():
    results = Results.of([*both("x", 0.5), *both("x", 0.4, task="hard")])
    assert results.scores[results.settings[1], "x"].cells == ("hard-0.0-x-validation", "hard-0.0-x-held_out")
    assert len(row(results.leaderboard, "x").cells) == 4


# Nothing is dropped silently -----------------------------------------------------------------------------------------


def reasons(results):
    return {omission.cell: omission.reason for omission in results.missing}


def test_failed_cells_are_listed_with_their_reason_and_stop_nothing():
    results = Results.of([*both("x", 0.5), failure("y", "validation"), both("y", 0.5)[1]])
    (failed,) = results.failed
    assert (failed.method, failed.split, failed.reason) == ("y", "validation", "it ran out of luck")
    assert "validation cell failed" in reasons(results)["easy-0.0-y-held_out"]
    assert results.methods == ("x", "y")
    assert [method for _, method in results.scores] == ["x"]


def test_cell_without_its_other_split_is_listed():
    (validation, _), (_, held_out) = both("x", 0.5), both("y", 0.5)
    results = Results.of([validation, held_out])
    assert not results.scores
    assert "held-out cell is not there" in reasons(results)["easy-0.0-x-validation"]
    assert "nothing selects" in reasons(results)["easy-0.0-y-held_out"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trials": [{"beta": 9.0}]}, "other trials"),
        ({"steps": [7]}, "other steps"),
        ({"max_kl": 1.0}, "other max_kl"),
        ({"seeds": [3, 4, 5]}, "has seen its seeds 3, 4"),
    ],
)
def test_cells_that_do_not_fit_together_are_listed(change, reason):
    validation, held_out = both("x", 0.5)
    results = Results.of([validation | change, held_out])
    assert not results.scores
    assert reason in reasons(results)["easy-0.0-x-held_out"]


def test_optimum_that_gains_nothing_is_listed():
    flat = {"kl": [0.0, MAX_KL], "reward": [[REFERENCE_REWARD] * 2] * 5}
    results = Results.of(both("x", 0.5, optimum=flat))
    assert not results.scores
    assert "gains nothing" in reasons(results)["easy-0.0-x-held_out"]


def test_repeated_cell_counts_once_and_success_beats_failure():
    validation, held_out = both("x", 0.5)
    later = {"cell": "a later one", "finished": "2026-11-25T00:00:00+00:00"}
    repeated = Results.of([validation, failure("x"), held_out | later])
    assert not repeated.failed
    assert not repeated.missing
    superseded = Results.of([validation, held_out, both("x", 0.2)[1] | later])
    assert only(superseded, "x").area.mean == pytest.approx(area_of(0.2))
    assert "cell a later one" in reasons(superseded)["easy-0.0-x-held_out"]
    kept = Results.of([validation, held_out, failure("x") | later])
    assert only(kept, "x").area.mean == pytest.approx(area_of(0.5))
    assert "ran out of luck" in reasons(kept)["a later one"]


def test_method_that_lacks_seeds_is_listed_and_not_compared():
    results = Results.of([*both("x", 0.5), *both("y", 0.9, seeds=(0, 1))])
    assert "seeds 2, 3, 4" in reasons(results)["easy-0.0-y-held_out"]
    assert only(results, "y").area.mean == pytest.approx(area_of(0.9))
    assert [own.method for own in results.leaderboard.rows] == ["x"]


# Boards --------------------------------------------------------------------------------------------------------------

GAINS = {
    "a": {"easy": [0.70, 0.72, 0.69, 0.71, 0.73], "hard": [0.50, 0.55, 0.52, 0.48, 0.50]},
    "b": {"easy": [0.69, 0.73, 0.69, 0.70, 0.73], "hard": [0.51, 0.54, 0.52, 0.47, 0.50]},
    "c": {"easy": [0.30, 0.35, 0.31, 0.28, 0.33], "hard": [0.60, 0.55, 0.58, 0.61, 0.57]},
}


def two_tasks(gains=GAINS):
    return [
        cell for method, tasks in gains.items() for task, own in tasks.items() for cell in both(method, own, task=task)
    ]


def test_leaderboard_averages_over_tasks_within_each_seed_first():
    board = Results.of(two_tasks()).leaderboard
    expected = area_of(np.mean([GAINS["c"]["easy"], GAINS["c"]["hard"]], axis=0))
    assert row(board, "c").area.values == pytest.approx(expected)
    assert (board.best, [own.method for own in board.rows]) == ("a", ["a", "b", "c"])


def test_leaderboard_tests_against_the_best_with_holms_correction():
    board = Results.of(two_tasks()).leaderboard
    means = {method: area_of(np.mean(list(tasks.values()), axis=0)) for method, tasks in GAINS.items()}
    p = {method: ttest_rel(means[method], means["a"]).pvalue for method in ("b", "c")}
    assert row(board, "b").p == pytest.approx(p["b"])
    assert row(board, "c").p == pytest.approx(p["c"])
    assert row(board, "c").p_holm == pytest.approx(2 * p["c"])
    assert p["b"] > 0.05 > 2 * p["c"]
    assert [own.tied for own in board.rows] == [True, True, False]
    assert row(board, "c").difference.mean == pytest.approx(np.mean(means["c"] - means["a"]))
    assert row(board, "a").difference is None


def test_ranks_are_averaged_over_tasks_and_seeds():
    board = Results.of(two_tasks()).leaderboard
    values = np.array([[*GAINS[method]["easy"], *GAINS[method]["hard"]] for method in "abc"])
    assert [row(board, method).rank for method in "abc"] == pytest.approx(rankdata(-values, axis=0).mean(1))


def test_method_that_knows_the_reward_is_shown_and_neither_best_nor_ranked_nor_tested():
    bound = [cell for task in ("easy", "hard") for cell in both("bound", 0.99, task=task, knows_reward=True)]
    plain, board = Results.of(two_tasks()).leaderboard, Results.of([*two_tasks(), *bound]).leaderboard
    found = board.rows[0]
    assert (found.method, found.rank, found.p, found.p_holm, found.tied) == ("bound", None, None, None, False)
    assert found.difference.mean > 0
    assert board.best == "a"
    assert board.rows[1:] == plain.rows
    assert {pair.first for pair in Results.of([*two_tasks(), *bound]).pairs} == {"a", "b"}


def test_method_that_missed_a_setting_is_compared_on_common_ones_and_never_best():
    # d is the best on the easy task, the only one it ran on; on average over its settings it would lead.
    board = Results.of(
        [*two_tasks(), *both("d", [0.72, 0.74, 0.70, 0.73, 0.73]), failure("d", task="hard")]
    ).leaderboard
    found = row(board, "d")
    assert (found.num_settings, found.complete, len(board.settings)) == (1, False, 2)
    assert board.best == "a"
    assert found.difference.mean == pytest.approx(area_of(0.724 - 0.71))
    assert found.rank == pytest.approx((1 + 1 + 1 + 1 + 2) / 5)  # level with a and b on the last seed
    assert row(board, "a").rank == row(Results.of(two_tasks()).leaderboard, "a").rank


def test_without_a_complete_contender_there_is_no_best():
    board = Results.of([*both("x", 0.5, task="easy"), *both("y", 0.4, task="hard")]).leaderboard
    assert (board.best, board.power) == (None, None)
    assert [(own.method, own.rank, own.p, own.tied) for own in board.rows] == [
        ("x", None, None, False),
        ("y", None, None, False),
    ]


def test_board_of_a_setting_is_of_that_setting_alone():
    results = Results.of(two_tasks())
    assert [results.boards[setting].best for setting in results.settings] == ["a", "c"]
    assert row(results.boards[results.settings[1]], "a").area.values == pytest.approx(
        area_of(np.array(GAINS["a"]["hard"]))
    )


def test_identical_methods_tie():
    board = Results.of([*both("x", GAINS["a"]["easy"]), *both("y", GAINS["a"]["easy"])]).leaderboard
    assert [own.rank for own in board.rows] == [1.5, 1.5]
    assert row(board, "y").p == 1.0
    assert all(own.tied for own in board.rows)


def test_one_seed_finds_no_difference_and_says_so():
    results = Results.of([*both("x", 0.9, seeds=[0]), *both("y", 0.1, seeds=[0])])
    board = results.leaderboard
    assert row(board, "y").p == 1.0
    assert all(own.tied for own in board.rows)
    assert row(board, "y").area.interval is None
    assert board.power is None
    assert only(results, "x").frontier.low is None


def test_power_is_of_the_median_spread_of_the_differences_from_the_best():
    gains = GAINS | {"d": {"easy": [0.1, 0.6, 0.2, 0.4, 0.3], "hard": [0.1, 0.3, 0.1, 0.2, 0.2]}}
    power = Results.of(two_tasks(gains)).leaderboard.power
    means = {method: area_of(np.mean(list(tasks.values()), axis=0)) for method, tasks in gains.items()}
    spread = np.median([np.std(means[method] - means["a"], ddof=1) for method in "bcd"])
    # 1.682 spreads: what five pairs find, as test_statistics.py holds against simulation
    assert power.smallest == pytest.approx(1.682 * spread, rel=1e-3)
    assert power.smallest_holm > power.smallest
    assert (power.num_seeds, power.num_comparisons) == (5, 3)


def test_methods_are_paired_by_seed_whatever_the_order_of_their_seeds():
    turned = both("b", GAINS["b"]["easy"][::-1], seeds=HELD_OUT[::-1])
    found = Results.of([*both("a", GAINS["a"]["easy"]), *turned]).compare("easy", {}, "a", "b")
    assert found.difference.values == pytest.approx(area_of(np.subtract(GAINS["a"]["easy"], GAINS["b"]["easy"])))


def test_settings_are_in_order_of_their_knobs_and_methods_of_their_names():
    records = [cell for size in (16, 8) for method in "ba" for cell in both(method, 0.5, knobs={"size": size})]
    results = Results.of(records)
    assert [setting.label for setting in results.settings] == ["easy size=8", "easy size=16"]
    assert [(dict(setting.knobs)["size"], method) for setting, method in results.scores] == [
        (8, "a"),
        (8, "b"),
        (16, "a"),
        (16, "b"),
    ]


def test_pairs_are_all_pairs_corrected_together():
    results = Results.of(two_tasks())
    assert [(pair.first, pair.second) for pair in results.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    smallest = min(results.pairs, key=lambda pair: pair.p)
    assert smallest.p_holm == pytest.approx(3 * smallest.p)
    assert all(pair.p_holm >= pair.p and pair.num_settings == 2 for pair in results.pairs)


def test_compare_is_the_paired_difference_in_one_setting():
    records = [
        cell
        for noise, shift in ((0.0, 0.0), (0.4, 0.1))
        for method, tasks in GAINS.items()
        for cell in both(method, np.array(tasks["easy"]) - shift, knobs={"noise": noise, "num_prompts": 8})
    ]
    results = Results.of(records)
    found = results.compare("easy", {"noise": 0.4}, "c", "a")
    first, second = (area_of(np.array(GAINS[method]["easy"]) - 0.1) for method in "ca")
    assert found.difference.values == pytest.approx(first - second)
    assert found.p == pytest.approx(ttest_rel(first, second).pvalue)
    assert found.p_holm is None
    assert [setting.label for setting in results.settings] == ["easy noise=0.0", "easy noise=0.4"]
    with pytest.raises(ConfigError, match=r"is 2 settings .* those are: easy noise=0.0, easy noise=0.4"):
        results.compare("easy", {}, "a", "b")
    with pytest.raises(ConfigError, match=r"is 0 settings .* there are: easy noise=0.0"):
        results.compare("easy", {"noise": 0.3}, "a", "b")
    with pytest.raises(ConfigError, match=r"z has no score on easy noise=0.4; there are: a, b, c"):
        results.compare("easy", {"noise": 0.4}, "a", "z")


# All of it -----------------------------------------------------------------------------------------------------------


def test_order_of_the_records_does_not_matter():
    records = made_up_records()
    shuffled = [records[place] for place in np.random.default_rng(0).permutation(len(records))]
    assert repr(Results.of(shuffled)) == repr(Results.of(records))


def test_records_are_left_as_they_are():
    records = made_up_records()
    before = copy.deepcopy(records)
    Results.of(iter(records))
    assert records == before


def test_nothing_is_nan():
    results = Results.of(made_up_records())
    shown = [*results.scores.values(), results.leaderboard, *results.boards.values(), *results.pairs, results.totals]
    for part in shown:
        json.dumps(asdict(part), allow_nan=False)


def test_made_up_order_comes_out():
    results = Results.of(made_up_records())
    board = results.leaderboard
    contenders = [own.method for own in board.rows if not own.knows_reward]
    assert contenders == ["dpo", "ipo", "kto", "simpo", "sft", "reference"]
    assert [own.method for own in board.rows if not own.complete] == ["simpo"]
    assert len(results.boards) == len(board.settings) + 1
    assert row(board, "reference").area.mean == 0.0


def test_totals_count_cells_time_and_what_they_were_made_with():
    records = [
        *both("x", 0.5),
        failure("y", task="hard") | {"commit": None, "versions": {"torch": "2.10.0"}, "seconds": 5.0},
    ]
    totals = Results.of(records).totals
    assert (totals.num_done, totals.num_failed, totals.seconds) == (2, 1, 9.0)
    assert list(totals.seconds_by_method.items()) == [("y", 5.0), ("x", 4.0)]
    assert totals.seconds_by_task == {"hard": 5.0, "easy": 4.0}
    assert (totals.num_validation_seeds, totals.num_held_out_seeds, totals.num_trials) == (3, 5, 1)
    assert totals.commits == ("1606c72", "unknown")
    assert totals.versions == {"torch": ("2.10.0", "2.9.0")}


def test_no_records_give_empty_results():
    results = Results.of([])
    assert (results.settings, results.leaderboard, results.totals.first) == ((), None, None)

from __future__ import annotations

import json
import random
from itertools import islice

import pytest
from scipy.stats import mannwhitneyu

import prefopt
from prefopt.advice.lengths import NUM_READ, SUSPICIOUS, length_advice, length_gap
from prefopt.config import ModelConfig
from prefopt.data.load import load_rows
from prefopt.engine.loading import load_tokenizer
from prefopt.evaluation.intervals import wilson
from prefopt.weighted import WeightedSum
from tests.advice.rows import labels, pairs, ranking

REGISTRY = prefopt.load_registry()
DPO = REGISTRY.loss("dpo")


def test_pairs_are_counted_as_by_hand():
    gap = length_gap(pairs((5, 3), (4, 2), (3, 3), (1, 6)))
    assert gap.longer == (1 + 1 + 0.5 + 0) / 4
    assert (gap.better_tokens, gap.worse_tokens) == (13 / 4, 14 / 4)
    assert gap.accuracy == 0.625
    assert gap.interval == wilson(2.5, 4)


def test_the_shorter_one_tells_as_well_as_the_longer_one():
    gap = length_gap(pairs((3, 5), (2, 4), (9, 1)))
    assert gap.longer == pytest.approx(1 / 3)
    assert gap.accuracy == pytest.approx(2 / 3)


def test_a_row_counts_with_its_weight():
    """A row of weight 2 is two rows."""
    heavy = length_gap(pairs((5, 3), (1, 6), weights=(2.0, 1.0)))
    twice = length_gap(pairs((5, 3), (5, 3), (1, 6)))
    for name in ("longer", "better_tokens", "worse_tokens"):
        assert getattr(heavy, name) == pytest.approx(getattr(twice, name))
    assert heavy.num_trials == pytest.approx(9 / 5)


def test_a_ranking_counts_once_with_its_pairs_of_unequal_scores():
    one = ranking((9, 3.0), (5, 2.0), (7, 2.0), (7, 1.0))
    # 9 beats 5, 7 and 7; 5 loses and 7 ties against 7; the two of score 2 compare nothing.
    assert length_gap([one]).longer == pytest.approx((1 + 1 + 1 + 0 + 0.5) / 5)
    assert length_gap([one, ranking((4, 0.0), (2, 1.0))]).longer == pytest.approx(0.7 / 2)
    assert length_gap([ranking((4, 1.0), (2, 1.0))]) is None


def test_labels_compare_all_desirable_with_all_undesirable_completions():
    """The share is the statistic of Mann and Whitney."""
    draw = random.Random(0)
    better, worse = [draw.randint(1, 9) for _ in range(40)], [draw.randint(3, 11) for _ in range(30)]
    gap = length_gap(labels(better, worse))
    assert gap.longer == pytest.approx(mannwhitneyu(better, worse).statistic / (40 * 30))
    assert gap.num_trials == 30
    assert gap.better_tokens == pytest.approx(sum(better) / 40)


def test_weights_of_labels_are_copies():
    heavy = length_gap(labels([5, 2], [4, 1], [3.0, 1.0, 1.0, 2.0]))
    copies = length_gap(labels([5, 5, 5, 2], [4, 1, 1]))
    assert heavy.longer == pytest.approx(copies.longer)


def test_demonstrations_and_one_sided_labels_compare_nothing():
    assert length_gap(labels([3, 4], [])) is None
    assert length_gap([]) is None
    assert length_advice([], DPO) == []


def test_the_interval_of_labels_covers():
    """Under random lengths the accuracy of labels lies in its interval about one half at least as often as it says."""
    draw, inside = random.Random(1), 0
    for _ in range(300):
        gap = length_gap(labels(*([draw.randint(1, 50) for _ in range(25)] for _ in range(2))))
        inside += gap.interval[0] <= 0.5
    assert inside >= 0.95 * 300


def test_a_clear_gap_is_told_with_its_numbers():
    rows = pairs(*[(60, 20)] * 90, *[(20, 60)] * 10)
    (told,) = length_advice(rows, DPO)
    low, high = wilson(90, 100)
    assert "the better completion is the longer one in 90% of comparisons over 100 rows" in told
    assert "mean 56 against 24 tokens" in told
    assert f"accuracy of 0.900 [{low:.3f}, {high:.3f}]" in told
    assert "loss dpo can learn just that" in told
    assert "docs/health.md" in told


def test_shorter_is_said_where_shorter_wins():
    (told,) = length_advice(pairs(*[(20, 60)] * 100), DPO)
    assert "the shorter one in 100%" in told
    (told,) = length_advice(labels([9] * 80, [3] * 80), REGISTRY.loss("kto"))
    assert "desirable completions are the longer one" in told


@pytest.mark.parametrize("num_longer", [50, 60, 75])
def test_a_small_or_uncertain_gap_is_not_told(num_longer):
    rows = pairs(*[(60, 20)] * num_longer, *[(20, 60)] * (100 - num_longer))
    assert wilson(75, 100)[0] < SUSPICIOUS
    assert length_advice(rows, DPO) == []
    assert length_advice(pairs(*[(60, 20)] * 3), DPO) == []


def test_a_loss_that_keeps_length_out_says_how():
    rows = pairs(*[(60, 20)] * 100)
    (told,) = length_advice(rows, REGISTRY.loss("simpo"))
    assert "loss simpo compares mean log-probs per token" in told
    assert "docs/health.md" not in told
    (told,) = length_advice(rows, WeightedSum(((1.0, REGISTRY.loss("simpo")), (0.5, DPO))))
    assert "loss dpo can learn just that" in told


def test_imitation_alone_compares_nothing():
    rows = pairs(*[(60, 20)] * 100)
    assert length_advice(rows, REGISTRY.loss("sft")) == []
    assert len(length_advice(rows, WeightedSum(((1.0, DPO), (0.2, REGISTRY.loss("sft")))))) == 1


def test_of_many_rows_some_are_read():
    class Counting(list):
        num_read = 0

        def __getitem__(self, place):
            Counting.num_read += 1
            return super().__getitem__(place)

    (told,) = length_advice(Counting(pairs((60, 20)) * (3 * NUM_READ + 1)), DPO)
    assert NUM_READ / 2 < Counting.num_read <= NUM_READ
    assert f"over {Counting.num_read:,} rows" in told


def plain(turns):
    """The text of a conversation: the model at hand has no chat template."""
    return turns if isinstance(turns, str) else "".join(turn["content"] for turn in turns)


@pytest.mark.parametrize("name", ["hh_harmless_test", "gsm8k_solutions_pairs", "dpo_en_demo", "blimp_pairs"])
def test_real_preferences_raise_no_alarm(shared, name):
    tokenizer = load_tokenizer(ModelConfig(name=str(shared / "models" / "stories260K")))
    with (shared / "data" / f"{name}.jsonl").open(encoding="utf-8") as file:
        raw = [json.loads(line) for line in islice(file, 250)]
    texts = [{key: plain(row[key]) for key in ("prompt", "chosen", "rejected")} for row in raw]
    rows, _ = load_rows(texts, tokenizer, max_length=4096, on_bad_row="skip")
    assert len(rows) > 200
    assert length_advice(rows, DPO) == []
    # The same rows, the chosen one always made the longer: the alarm can ring.
    longest = [(row.completions[1].num_scored + 1, row.completions[1].num_scored) for row in rows]
    assert len(length_advice(pairs(*longest), DPO)) == 1

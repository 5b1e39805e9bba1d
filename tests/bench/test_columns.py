import dataclasses

import pytest
import torch

import prefopt
from prefopt.bench.columns import columns, prepared
from prefopt.worlds import Rows, World, Worlds

SEEDS = (0, 1)
WORLDS = Worlds.of([World.draw(seed, num_prompts=3, depth=3, num_rows=6) for seed in SEEDS], SEEDS)
TREE = WORLDS.tree
torch.manual_seed(0)
TABLE = TREE.next_token_logps(WORLDS.reference + torch.randn(2, *WORLDS.reference.shape, dtype=torch.float64))


def made(needs, rows=WORLDS.rows):
    return columns(WORLDS, [prepared(own, needs) for own in rows], TABLE, needs)


def test_pairs_get_sums_lengths_and_scores():
    found = made(prefopt.Needs(rows={"pairs"}, reference=True, scores=True))
    for seed, rows in enumerate(WORLDS.rows):
        for side, place in (("chosen", 0), ("rejected", 1)):
            completion = rows.completions[:, place]
            for trial in range(2):
                logps = TREE.logps(TABLE[trial, seed])[rows.prompts, completion]
                torch.testing.assert_close(found[f"policy_{side}"][trial, seed], logps)
                reference = WORLDS.logps[seed][rows.prompts, completion]
                torch.testing.assert_close(found[f"reference_{side}"][trial, seed], reference)
                assert found[f"{side}_lengths"][trial, seed].equal(TREE.lengths[completion])
                assert found[f"{side}_scores"][trial, seed].equal(rows.scores[:, place])


def test_what_a_loss_does_not_read_is_left_out():
    assert set(made(prefopt.Needs(rows={"pairs"}))) == {
        "policy_chosen",
        "policy_rejected",
        "chosen_lengths",
        "rejected_lengths",
    }


def test_tokens_carry_the_next_token_distribution():
    found = made(prefopt.Needs(rows={"pairs"}, reference=True, tokens=True, distribution="both"))
    tokens, rows = found["rejected_tokens"], WORLDS.rows[1]
    index = {prefix: number for number, prefix in enumerate(TREE.prefixes)}
    for row in range(len(rows)):
        actions = TREE.completions[rows.completions[row, 1]]
        for place in range(len(actions)):
            prefix = index[actions[:place]]
            policy, reference = (table[rows.prompts[row], prefix] for table in (TABLE[0, 1], WORLDS.reference[1]))
            possible = reference.exp() > 0
            kl = (reference.exp() * (reference - policy))[possible].sum()
            at = (0, 1, row, place)
            torch.testing.assert_close(tokens["policy"][at], policy[actions[place]])
            torch.testing.assert_close(tokens["reference"][at], reference[actions[place]])
            torch.testing.assert_close(tokens["reference_kl"][at], kl)
            torch.testing.assert_close(tokens["log_sum_squares"][at], policy.exp().square().sum().log())


def test_labels_get_the_next_rows_completion_of_another_prompt_round_the_end():
    rows = Rows(
        "labels",
        torch.tensor([0, 0, 1, 2, 0]),
        torch.tensor([[1], [2], [3], [4], [5]]),
        desirable=torch.tensor([True, False, True, False, True]),
    )
    kto = prefopt.Needs(rows={"labels"}, reference=True, mismatched=True)
    assert prepared(rows, kto).completions.tolist() == [[1, 3], [2, 3], [3, 4], [4, 5], [5, 3]]
    found = made(kto, [rows, rows])
    torch.testing.assert_close(found["mismatched_policy"][1, 0, 4], TREE.logps(TABLE[1, 0])[0, 3])
    assert found["desirable"][0, 1].tolist() == rows.desirable.tolist()


def test_rankings_keep_their_places():
    needs = prefopt.Needs(rows={"rankings"}, scores=True)
    found = made(needs)
    assert found["policy"].shape == (2, 2, 6, 2)
    torch.testing.assert_close(found["scores"][0, 1], WORLDS.rows[1].scores)


@pytest.mark.parametrize("kind", ["pairs", "labels", "rankings", "demonstrations"])
def test_weights_follow_their_rows(kind):
    weighted = [dataclasses.replace(own, weights=torch.arange(1.0, 7.0)) for own in WORLDS.rows]
    found = made(prefopt.Needs(rows={kind}), weighted)
    expected = torch.arange(1.0, 7.0).repeat_interleave(2) if kind == "labels" else torch.arange(1.0, 7.0)
    assert found["weights"][0, 0].tolist() == expected.tolist()

from __future__ import annotations

from prefopt.data.row import Completion, Row
from prefopt.data.trees import Tree, grow, largest_sequence, prune, split


def completion(*ids):
    return Completion(ids, (True,) * len(ids))


SLOTS = [((1, 2), completion(3, 4)), ((5,), completion(6)), ((1, 2), completion(7, 8, 9))]


def test_slots_with_equal_prompts_share_a_tree():
    assert grow(SLOTS, range(len(SLOTS))) == [
        Tree((1, 2), ((0, SLOTS[0][1]), (2, SLOTS[2][1]))),
        Tree((5,), ((1, SLOTS[1][1]),)),
    ]


def test_an_empty_prompt_is_shared_within_a_row_only():
    slots = [((1,), completion(3)), ((1,), completion(4)), ((1,), completion(5))]
    assert [[slot for slot, _ in tree.branches] for tree in grow(slots, [0, 0, 1])] == [[0, 1], [2]]


def test_the_last_token_of_a_branch_is_predicted_never_read():
    assert [tree.num_tokens for tree in grow(SLOTS, range(len(SLOTS)))] == [2 + 1 + 2, 1]


def test_a_tree_over_the_budget_is_split_and_its_prompt_repeated():
    tree = grow(SLOTS, range(len(SLOTS)))[0]
    assert list(split(tree, 5)) == [tree]
    assert list(split(tree, 4)) == [Tree((1, 2), tree.branches[:1]), Tree((1, 2), tree.branches[1:])]


def test_pruning_keeps_the_slots_asked_for():
    tree = grow(SLOTS, range(len(SLOTS)))[0]
    assert prune(tree, {2}) == Tree((1, 2), tree.branches[1:])
    assert prune(tree, {1}) is None


def test_the_largest_sequence_counts_mismatched_completions():
    small = Row("labels", "x", 1, (1,), (completion(2),))
    large = Row("labels", "x", 2, (1, 1), (completion(2),), mismatched=(completion(3, 4, 5),))
    assert largest_sequence([small, large]) == (4, large)

import itertools

import pytest
import torch

from prefopt.worlds import Tree

TREE = Tree(num_tokens=2, depth=3)
END = 2


def test_completions_are_all_sequences_that_end_or_are_cut_at_the_depth():
    ended = [(*body, END) for length in (1, 2) for body in itertools.product(range(2), repeat=length)]
    assert sorted(TREE.completions) == sorted([*ended, *itertools.product(range(2), repeat=3)])
    assert TREE.lengths.tolist() == [len(actions) for actions in TREE.completions]


@pytest.mark.parametrize(("num_tokens", "depth"), [(1, 1), (1, 4), (3, 2), (2, 6)])
def test_sizes_follow_the_formulas(num_tokens, depth):
    tree = Tree(num_tokens, depth)
    assert tree.num_completions == len(tree.completions) == sum(num_tokens**length for length in range(1, depth + 1))
    assert tree.num_prefixes == len(tree.prefixes) == sum(num_tokens**length for length in range(depth))


def test_a_completions_log_prob_is_the_product_of_its_choices():
    torch.manual_seed(0)
    table = TREE.next_token_logps(torch.randn(4, TREE.num_prefixes, TREE.num_actions, dtype=torch.float64))
    found = TREE.logps(table)
    index = {prefix: number for number, prefix in enumerate(TREE.prefixes)}
    for column, actions in enumerate(TREE.completions):
        by_hand = sum(table[:, index[actions[:place]], action] for place, action in enumerate(actions))
        torch.testing.assert_close(found[:, column], by_hand)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(4, dtype=torch.float64))


def test_the_empty_completion_is_impossible():
    table = TREE.next_token_logps(torch.zeros(TREE.num_prefixes, TREE.num_actions))
    assert table[0, END] == -torch.inf


def test_any_distribution_over_completions_is_some_policy():
    torch.manual_seed(0)
    wanted = torch.log_softmax(3 * torch.randn(5, TREE.num_completions, dtype=torch.float64), dim=-1)
    table = TREE.as_next_token_logps(wanted)
    torch.testing.assert_close(TREE.logps(table), wanted)
    torch.testing.assert_close(table.exp().sum(-1), torch.ones(5, TREE.num_prefixes, dtype=torch.float64))

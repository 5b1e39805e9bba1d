from __future__ import annotations

import pytest
import torch

from prefopt.data.row import Completion
from prefopt.data.trees import Tree
from prefopt.engine.layout import lay_out

TREE = Tree(
    (10, 11),
    ((0, Completion((20, 21, 22), (True, True, True))), (1, Completion((30, 31, 32), (True, False, True)))),
)
SHORT = Tree((12,), ((2, Completion((40,), (True,))), (3, Completion((50, 51), (True, True)))))


def test_branches_continue_from_the_prompt():
    layout = lay_out([TREE])
    assert layout.input_ids_RT.tolist() == [[10, 11, 20, 21, 30, 31]]
    assert layout.position_ids_RT.tolist() == [[0, 1, 2, 3, 2, 3]]


def test_trees_lie_one_after_another_in_one_row():
    layout = lay_out([TREE, SHORT])
    assert layout.input_ids_RT.tolist() == [[10, 11, 20, 21, 30, 31, 12, 50]]
    assert layout.position_ids_RT.tolist() == [[0, 1, 2, 3, 2, 3, 0, 1]]
    assert layout.num_tokens == 8


def test_every_scored_token_is_predicted_from_the_token_before_it():
    layout = lay_out([TREE, SHORT])
    assert layout.targets_N.tolist() == [20, 21, 22, 30, 32, 40, 50, 51]
    assert layout.places_N.tolist() == [1, 2, 3, 1, 5, 6, 6, 7]
    assert layout.slots == (0, 1, 2, 3)
    assert layout.lengths == (3, 2, 1, 2)


def test_segments_are_prompts_and_branches_that_read_a_token():
    layout = lay_out([TREE, SHORT])
    assert layout.segments.trees == ((2, 2, 2), (2,))  # a single branch and its prompt are one causal segment
    assert layout.segments.longest == 4


def test_the_block_mask_of_flex_attention_holds_each_branch_to_its_prompt_and_itself():
    mask_mod = lay_out([TREE, SHORT]).segments.block_mask.mask_mod
    seen = [[int(mask_mod(0, 0, torch.tensor(q), torch.tensor(k))) for k in range(8)] for q in range(8)]
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 1],
    ]


def test_plain_rows_are_padded_and_leave_positions_and_masks_to_the_model():
    one, other = Tree((10, 11), TREE.branches[:1]), Tree((12,), SHORT.branches[:1])
    layout = lay_out([one, other], packed=False)
    assert layout.model_inputs == {"input_ids": layout.input_ids_RT}
    assert layout.input_ids_RT.tolist() == [[10, 11, 20, 21], [12, 0, 0, 0]]
    assert layout.places_N.tolist() == [1, 2, 3, 4]
    assert layout.num_tokens == 5


def test_plain_rows_hold_one_branch_each():
    with pytest.raises(AssertionError):
        lay_out([TREE], packed=False)

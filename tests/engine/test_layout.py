from __future__ import annotations

import torch

from prefopt.data.row import Completion
from prefopt.data.trees import Tree
from prefopt.engine.layout import lay_out

TREE = Tree(
    (10, 11),
    ((0, Completion((20, 21, 22), (True, True, True))), (1, Completion((30, 31, 32), (True, False, True)))),
)


def test_branches_continue_from_the_prompt():
    layout = lay_out([TREE])
    assert layout.input_ids_RT.tolist() == [[10, 11, 20, 21, 30, 31]]
    assert layout.position_ids_RT.tolist() == [[0, 1, 2, 3, 2, 3]]


def test_every_scored_token_is_predicted_from_the_token_before_it():
    layout = lay_out([TREE])
    assert layout.targets_N.tolist() == [20, 21, 22, 30, 32]
    assert layout.columns_N.tolist() == [1, 2, 3, 1, 5]
    assert layout.lengths == (3, 2)


def test_siblings_do_not_see_each_other():
    seen = (lay_out([TREE]).model_inputs(torch.float32)["attention_mask"][0, 0] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]


def test_padding_sees_something_and_is_seen_by_nobody():
    short = Tree((10,), ((2, Completion((20,), (True,))),))
    seen = lay_out([TREE, short]).model_inputs(torch.float32)["attention_mask"][1, 0] == 0
    assert seen.any(dim=1).all()
    assert not seen[0, 1:].any()


def test_plain_rows_leave_positions_and_masks_to_the_model():
    plain = Tree((10, 11), TREE.branches[:1])
    assert set(lay_out([plain, plain]).model_inputs(torch.float32)) == {"input_ids"}

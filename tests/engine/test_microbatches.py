from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefopt.data.row import Completion
from prefopt.data.trees import grow
from prefopt.engine.microbatches import cut


@st.composite
def slots(draw):
    prompts = st.sampled_from([(1, 5), (1, 2, 3), (4,) * 9])
    lengths = draw(st.lists(st.tuples(prompts, st.integers(1, 12)), min_size=1, max_size=20))
    return [(prompt, Completion((7,) * length, (True,) * length)) for prompt, length in lengths]


@given(slots(), st.integers(1, 60), st.booleans())
def test_every_slot_is_laid_out_once_and_the_budget_holds(slots, budget, shared_prompts):
    microbatches = cut(grow(slots, range(len(slots))), budget, shared_prompts=shared_prompts)
    found = sorted(slot for trees in microbatches for tree in trees for slot, _ in tree.branches)
    assert found == list(range(len(slots)))
    for trees in microbatches:
        padded = len(trees) * max(tree.num_tokens for tree in trees)
        alone = len(trees) == 1 and len(trees[0].branches) == 1
        assert padded <= budget or alone


@given(slots())
def test_a_roomy_budget_computes_each_prompt_once(slots):
    (trees,) = cut(grow(slots, range(len(slots))), 10**9)
    assert len(trees) == len({prompt for prompt, _ in slots})


@given(slots())
def test_plain_rows_hold_one_completion_each(slots):
    (trees,) = cut(grow(slots, range(len(slots))), 10**9, shared_prompts=False)
    assert all(len(tree.branches) == 1 for tree in trees)

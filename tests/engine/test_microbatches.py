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


@given(slots(), st.integers(1, 60), st.booleans(), st.integers(1, 4))
def test_every_slot_is_laid_out_once_and_the_budget_holds(slots, budget, packed, num_ranks):
    microbatches = cut(grow(slots, range(len(slots))), budget, packed=packed, num_ranks=num_ranks)
    found = sorted(slot for trees in microbatches for tree in trees for slot, _ in tree.branches)
    assert found == list(range(len(slots)))
    assert len(microbatches) % num_ranks == 0
    assert sum(not trees for trees in microbatches) < num_ranks
    assert microbatches[0]
    for trees in microbatches:
        sizes = [tree.num_tokens for tree in trees]
        alone = len(trees) == 1 and len(trees[0].branches) == 1
        assert not trees or (sum(sizes) if packed else len(sizes) * max(sizes)) <= budget or alone


@given(slots(), st.integers(20, 60))
def test_micro_batches_are_about_equally_full(slots, budget):
    loads = [sum(tree.num_tokens for tree in trees) for trees in cut(grow(slots, range(len(slots))), budget)]
    longest = max(len(prompt) + len(completion.ids) - 1 for prompt, completion in slots)
    assert max(loads) - min(loads) <= max(longest, budget - min(loads))
    assert len(loads) == 1 or sum(loads) > budget


@given(slots())
def test_a_roomy_budget_computes_each_prompt_once(slots):
    (trees,) = cut(grow(slots, range(len(slots))), 10**9)
    assert len(trees) == len({prompt for prompt, _ in slots})


@given(slots())
def test_plain_rows_hold_one_completion_each(slots):
    (trees,) = cut(grow(slots, range(len(slots))), 10**9, packed=False)
    assert all(len(tree.branches) == 1 for tree in trees)

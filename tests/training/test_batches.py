from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefopt.training.batches import batches, num_steps


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.integers(1, 3))
def test_every_epoch_reads_every_row_once(num_rows, batch_size, seed, epochs):
    steps = num_steps(num_rows, batch_size, epochs, None)
    found = list(batches(num_rows, batch_size, steps=steps, seed=seed))
    assert len(found) == steps
    per_epoch = steps // epochs
    for epoch in range(epochs):
        read = [row for batch in found[epoch * per_epoch : (epoch + 1) * per_epoch] for row in batch]
        assert sorted(read) == list(range(num_rows))


def test_order_depends_on_seed_and_epoch():
    orders = [[row for batch in batches(20, 5, steps=8, seed=seed) for row in batch] for seed in (0, 1)]
    assert orders[0] != orders[1]
    assert orders[0][:20] != orders[0][20:]
    assert orders[0] == [row for batch in batches(20, 5, steps=8, seed=0) for row in batch]


def test_max_steps_wins_over_epochs():
    assert num_steps(100, 10, epochs=3, max_steps=7) == 7
    assert num_steps(100, 10, epochs=1, max_steps=70) == 70
    assert num_steps(100, 10, epochs=0.25, max_steps=None) == 3
    assert num_steps(3, 10, epochs=0.1, max_steps=None) == 1

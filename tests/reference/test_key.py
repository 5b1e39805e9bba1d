from __future__ import annotations

from itertools import combinations

from prefopt.data.row import Completion
from prefopt.reference.key import KEY_BYTES, key

ONE, OTHER = bytes(32), bytes([1]) + bytes(31)


def test_everything_a_log_prob_depends_on_changes_the_key():
    cases = [
        (ONE, (1, 2), Completion((3, 4), (True, True))),
        (OTHER, (1, 2), Completion((3, 4), (True, True))),
        (ONE, (2, 1), Completion((3, 4), (True, True))),
        (ONE, (1,), Completion((3, 4), (True, True))),
        (ONE, (1, 2, 3), Completion((4,), (True,))),  # the same tokens, cut elsewhere
        (ONE, (1,), Completion((2, 3, 4), (True, True, True))),
        (ONE, (1, 2), Completion((3, 4), (False, True))),
        (ONE, (1, 2), Completion((3,), (True,))),
        (ONE, (1, 2), Completion((3, 4 + 256), (True, True))),
    ]
    keys = [key(*case) for case in cases]
    assert all(len(own) == KEY_BYTES for own in keys)
    assert all(a != b for a, b in combinations(keys, 2))


def test_the_score_of_a_completion_and_the_type_of_the_sequence_do_not():
    rated, plain = Completion((3, 4), (True, True), 7.0), Completion((3, 4), (True, True))
    assert key(ONE, (1, 2), rated) == key(ONE, [1, 2], plain)


def test_a_key_is_the_same_on_every_machine():
    """Golden value: keys that change make every store useless, so that takes a new format version."""
    found = key(bytes(range(32)), (1, 2, 3), Completion((4, 5), (False, True)))
    assert found.hex() == "31bcdaaec29de743bb004227a080e7d5"

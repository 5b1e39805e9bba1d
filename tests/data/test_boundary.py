from prefopt.data.boundary import common_prefix, split


def test_common_prefix_of_one_is_the_whole():
    assert common_prefix([1, 2, 3]) == 3


def test_common_prefix_stops_at_the_shortest():
    assert common_prefix([1, 2, 3], [1, 2], [1, 2, 4]) == 2


def test_split_gives_the_leftover_of_the_prompt_to_every_completion():
    assert split([1, 2, 3], [[1, 2, 3, 4], [1, 2, 9]]) == ([1, 2], [[3, 4], [9]])


def test_split_may_share_nothing():
    assert split([1], [[2, 3]]) == ([], [[2, 3]])

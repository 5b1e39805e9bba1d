from __future__ import annotations

from prefopt.plan.heap import Heap

MIB = 2**20


def test_a_block_that_is_given_back_makes_room_for_one_like_it():
    heap = Heap()
    for name in "ab":
        heap.take(name, MIB // 16)
    heap.give_back("a")
    before = heap.held
    heap.take("c", MIB // 32)
    assert heap.held == heap.peak == before


def test_large_blocks_have_pages_of_their_own_that_go_when_they_do():
    heap = Heap()
    heap.take("a", 64 * MIB)
    assert heap.held >= 64 * MIB
    heap.give_back("a")
    assert heap.held == 0
    assert heap.peak >= 64 * MIB


def test_holes_between_blocks_stay_with_the_process():
    heap = Heap()
    heap.take("first", 8 * MIB)
    heap.give_back("first")  # from now on, blocks of this size come from the heap
    for number in range(8):
        heap.take(number, 4 * MIB)
    for number in range(0, 8, 2):
        heap.give_back(number)
    assert heap.held >= 32 * MIB
    heap.take("larger", 5 * MIB)  # fits into none of them
    assert heap.held >= 36 * MIB


def test_neighbours_that_are_given_back_become_one_hole():
    heap = Heap()
    heap.take("first", 8 * MIB)
    heap.give_back("first")
    for number in range(4):
        heap.take(number, 2 * MIB)
    before = heap.held
    heap.give_back(0)
    heap.give_back(2)
    heap.give_back(1)
    heap.take("all three", 5 * MIB)
    assert heap.held == before

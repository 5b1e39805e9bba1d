"""Worlds so small that every completion can be enumerated: what the exact tasks of the benchmark are made of."""

from prefopt.worlds.policies import LEARNING_RATES, Policies
from prefopt.worlds.rows import Rows
from prefopt.worlds.sampling import draw_rows, judge_pairs, label_rows
from prefopt.worlds.tree import Tree
from prefopt.worlds.world import World, Worlds

__all__ = ["LEARNING_RATES", "Policies", "Rows", "Tree", "World", "Worlds", "draw_rows", "judge_pairs", "label_rows"]

"""docs/benchmark.md says what is true: its task and suite run, its tables name all there is."""

from __future__ import annotations

import re
from pathlib import Path

import prefopt
from prefopt.bench.record import read_records
from prefopt.bench.runner import remaining, run_suite
from prefopt.bench.suite import load_suite
from prefopt.worlds import World

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
REGISTRY = prefopt.load_registry()


def block(name):
    (found,) = re.findall(rf"<!-- tested: {name} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_task_and_the_suite_run(tmp_path):
    plugin, suite_file = tmp_path / "hurried.py", tmp_path / "mine.yaml"
    plugin.write_text(block("task"))
    suite_file.write_text(block("suite"))
    suite = load_suite(str(suite_file), ["steps=2", "trials=2", "held_out_seeds=1"])
    cells, _ = remaining(suite, prefopt.load_registry([plugin]), tmp_path)
    run_suite(suite, cells, tmp_path, num_processes=1, plugins=[str(plugin)])
    records = read_records(tmp_path)
    assert len(records) == 16
    assert all(record["status"] == "done" for record in records)


def test_every_built_in_task_stands_in_the_table_with_its_knobs():
    for name, task in REGISTRY.tasks.items():
        if name == "sentiment":
            continue
        own = [knob for knob in task.knobs if World.knobs.get(knob) != task.knobs[knob]]
        assert re.search(rf"^\| `{name}` \| {''.join(f'`{knob}`' for knob in own)} ?\|", PAGE, re.MULTILINE), name


def test_every_method_that_is_no_loss_stands_on_the_page():
    assert not [name for name in REGISTRY.methods if f"`{name}`" not in PAGE]


def test_the_world_is_as_described():
    world = World.draw(0)
    assert world.tree.num_completions == 126
    assert world.reward.shape[0] == 8
    assert world.tree.lengths.unique().tolist() == [2, 3, 4, 5, 6]
    assert world.num_rows == 1024
    assert world.max_kl == 3

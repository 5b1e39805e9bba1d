import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import prefopt
from prefopt.bench.record import CELLS, read_records
from prefopt.bench.runner import remaining, run_suite
from prefopt.bench.suite import load_suite
from prefopt.errors import PrefoptError

SUITE = """
name: small
tasks: {bradley_terry: {num_prompts: 2, depth: 3, num_rows: 32}}
methods: [reference, sft, dpo, kto]
trials: 4
validation_seeds: 1
held_out_seeds: 2
steps: 8
batch_size: 8
num_checkpoints: 2
"""

PLUGIN = '''
import prefopt
from prefopt.worlds import World


class Tiny(prefopt.Task):
    """A world of one prompt."""

    name = "tiny"
    knobs = {"num_rows": prefopt.Knob(16, "rows", ge=1)}

    def build(self, seed, **knobs):
        return World.draw(seed, num_prompts=1, depth=2, **knobs)


class Broken(prefopt.Method):
    """Never works."""

    name = "broken"

    def policies(self, trials, worlds, budget):
        raise RuntimeError("the\\nmill is broken")


@prefopt.hookimpl
def prefopt_register_tasks():
    return [Tiny]


@prefopt.hookimpl
def prefopt_register_methods():
    return [Broken]
'''


@pytest.fixture
def suite_file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return path


def run(path, folder, overrides=(), plugins=(), num_processes=1, retry=False):
    suite, registry = load_suite(str(path), overrides), prefopt.load_registry(plugins)
    cells, _ = remaining(suite, registry, folder, retry=retry)
    run_suite(suite, cells, folder, num_processes=num_processes, plugins=plugins)
    return [cell.id for cell in cells]


def lasting(folder):
    """The records without what differs from run to run, in one order."""
    kept = [{k: v for k, v in record.items() if k not in ("seconds", "finished")} for record in read_records(folder)]
    return sorted(kept, key=lambda record: record["cell"])


def test_every_method_has_a_cell_for_each_split_with_its_trials_seeds_and_versions(suite_file, tmp_path):
    run(suite_file, tmp_path)
    records = read_records(tmp_path)
    assert {(record["method"], record["split"]) for record in records} == {
        (method, split) for method in ("reference", "sft", "dpo", "kto") for split in ("validation", "held_out")
    }
    dpo = next(record for record in records if (record["method"], record["split"]) == ("dpo", "held_out"))
    assert dpo["status"] == "done"
    assert len(dpo["trials"]) == 4
    assert dpo["seeds"] == [0, 1]
    assert dpo["steps"] == [4, 8]
    assert dpo["knobs"] == {"num_prompts": 2, "num_tokens": 2, "depth": 3, "num_rows": 32, "rank": None}
    assert dpo["versions"]["torch"]
    kl = dpo["metrics"]["kl"]
    assert (len(kl), len(kl[0]), len(kl[0][0])) == (4, 2, 2)


def test_two_runs_give_identical_records_in_one_process_or_two(suite_file, tmp_path):
    run(suite_file, tmp_path / "first")
    run(suite_file, tmp_path / "second", num_processes=2)
    assert lasting(tmp_path / "first") == lasting(tmp_path / "second")


def test_a_finished_cell_is_not_computed_again(suite_file, tmp_path):
    first = run(suite_file, tmp_path)
    before = (tmp_path / CELLS).read_bytes()
    assert len(first) == 8
    assert run(suite_file, tmp_path) == []
    assert (tmp_path / CELLS).read_bytes() == before


def test_another_method_or_knob_computes_only_what_is_new(suite_file, tmp_path):
    run(suite_file, tmp_path)
    assert len(run(suite_file, tmp_path, ["methods=[dpo, ipo]"])) == 2
    assert len(run(suite_file, tmp_path, ["steps=4"])) == 8


def test_a_run_killed_at_any_moment_resumes_without_computing_a_finished_cell_again(suite_file, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    run(suite_file, whole)
    kept = []
    for delay in (0.0, 0.02, 0.1):
        command = [sys.executable, "-m", "prefopt", "bench", "run", str(suite_file), "--output", str(folder)]
        process = subprocess.Popen([*command, "--processes", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        num_before = len(kept)
        while process.poll() is None:  # until it has finished one cell more
            now = (folder / CELLS).read_bytes().count(b"\n") if (folder / CELLS).is_file() else 0
            if now > num_before:
                break
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        records = read_records(folder)
        assert records[: len(kept)] == kept
        kept = records
    computed = run(suite_file, folder)
    assert not {record["cell"] for record in kept} & set(computed)
    assert len(kept) + len(computed) == 8
    strip = ("commit",)
    assert [{k: v for k, v in record.items() if k not in strip} for record in lasting(folder)] == [
        {k: v for k, v in record.items() if k not in strip} for record in lasting(whole)
    ]


def test_a_cell_that_fails_says_why_and_stops_no_other(suite_file, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    settings = ["methods=[broken, reference]"]
    run(suite_file, tmp_path, settings, [str(plugin)])
    by_method = {record["method"]: record for record in read_records(tmp_path)}
    assert by_method["broken"]["status"] == "failed"
    assert by_method["broken"]["error"] == "RuntimeError: the mill is broken"
    assert by_method["reference"]["status"] == "done"
    assert run(suite_file, tmp_path, settings, [str(plugin)]) == []
    assert len(run(suite_file, tmp_path, settings, [str(plugin)], retry=True)) == 2


def test_a_process_that_is_killed_stops_the_run_with_a_sentence_and_what_is_finished_stays(suite_file, tmp_path):
    plugin = tmp_path / "plugin.py"
    deadly = PLUGIN.replace('raise RuntimeError("the\\nmill is broken")', "import os; os._exit(9)")
    assert "os._exit" in deadly
    plugin.write_text(deadly)
    run(suite_file, tmp_path, ["methods=[reference]"])
    with pytest.raises(PrefoptError, match="a process of the run was killed"):
        run(suite_file, tmp_path, ["methods=[reference, broken]"], [str(plugin)], num_processes=2)
    assert len(read_records(tmp_path)) == 2


def test_the_commit_is_that_of_the_checkout_and_of_no_other_that_holds_a_copy(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, "-C", tmp_path, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    program = "import prefopt.bench.runner as r; print(r.commit(), r.__file__)"
    shutil.copytree(Path(prefopt.__file__).parent, tmp_path / "prefopt")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["None", str(tmp_path / "prefopt" / "bench" / "runner.py")]


def test_a_task_in_a_plugin_file_runs_like_any_other(suite_file, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    run(suite_file, tmp_path, ["tasks={tiny: {num_rows: [8, 16]}}", "methods=[dpo]"], [str(plugin)])
    assert [record["knobs"] for record in lasting(tmp_path)].count({"num_rows": 8}) == 2
    assert all(record["status"] == "done" for record in read_records(tmp_path))


def test_the_suite_lies_beside_its_records(suite_file, tmp_path):
    run(suite_file, tmp_path, ["steps=2"])
    assert load_suite(str(tmp_path / "suite.yaml")).steps == 2


def test_records_are_json_without_numbers_that_json_does_not_have(suite_file, tmp_path):
    run(suite_file, tmp_path)
    for line in (tmp_path / CELLS).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in a record"))

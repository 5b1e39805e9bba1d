from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.config import load_config
from prefopt.training.costs import step_costs
from prefopt.training.output import load_state

HINGE = Path(__file__).resolve().parents[2] / "plugins" / "example" / "prefopt_example.py"


@pytest.fixture
def pairs(write_rows, pair_rows):
    return write_rows(pair_rows)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(steps):
    """The numbers of steps without what the clock and the machine say."""
    costs = step_costs(1, 1.0)
    return [{key: value for key, value in step.items() if key not in costs} for step in steps]


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto", "simpo", "orpo", "sft"])
def test_only_the_name_of_the_loss_changes(prefopt, write_config, pairs, tmp_path, loss):
    config = write_config(pairs, data={"evaluation": 3}, evaluation={"samples": 2, "max_new_tokens": 4})
    outcome = prefopt("train", config, f"loss={loss}")
    assert outcome.code == 0, outcome.err
    assert "before" in outcome.err
    assert "after" in outcome.err
    out = tmp_path / "out"
    run = json.loads((out / "run.json").read_text())
    for when in ("before", "after"):
        low, high = run["evaluation"][when]["reward_accuracy_interval"]
        assert 0 <= low <= run["evaluation"][when]["reward_accuracy"] <= high <= 1
        assert len(run["evaluation"][when]["samples"]) == 2
    assert run["loss"] == loss
    assert run["data"]["train"]["num_kept"] == 9
    assert run["plugins"] == {f"prefopt:{loss}": run["prefopt"]}
    assert run["peak_memory_bytes"]["process"] > 0
    assert {"wall_seconds", "versions", "seed", "threads"} <= set(run)
    assert len(metrics(out)) == 2
    AutoModelForCausalLM.from_pretrained(out)
    AutoTokenizer.from_pretrained(out)


def test_a_run_whose_policy_is_its_reference_begins_with_ties_at_ln_2(prefopt, write_config, pairs, tmp_path):
    prefopt("train", write_config(pairs, data={"evaluation": 3}))
    before = json.loads((tmp_path / "out" / "run.json").read_text())["evaluation"]["before"]
    assert before["reward_accuracy"] == 0.5
    assert before["loss"] == pytest.approx(math.log(2), abs=1e-6)
    first = metrics(tmp_path / "out")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["reward_accuracy"] == 0.5


def test_the_resolved_config_repeats_the_run(prefopt, write_config, pairs, tmp_path):
    prefopt("train", write_config(pairs))
    first = metrics(tmp_path / "out")
    outcome = prefopt("train", tmp_path / "out" / "config.resolved.yaml", f"output_dir={tmp_path / 'again'}")
    assert outcome.code == 0, outcome.err
    assert timeless(first) == timeless(metrics(tmp_path / "again"))


def test_two_stages_sft_then_dpo(prefopt, write_config, write_rows, pairs, tmp_path):
    texts = [{"prompt": f"Tell me about {word}.", "completion": f" I like {word}"} for word in ("tea", "milk", "rain")]
    demonstrations = write_rows(texts, "demonstrations.jsonl")
    stage_1, stage_2 = tmp_path / "sft", tmp_path / "dpo"
    first = prefopt("train", write_config(demonstrations), "loss=sft", f"output_dir={stage_1}", "training.epochs=20")
    assert first.code == 0, first.err
    losses = [step["loss"] for step in metrics(stage_1)]
    assert losses[-1] < losses[0]
    second = prefopt("train", write_config(pairs), f"model={stage_1}", f"output_dir={stage_2}")
    assert second.code == 0, second.err
    assert metrics(stage_2)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_another_reference_model_is_loaded(prefopt, write_config, pairs, tmp_path, model_folder):
    prefopt("train", write_config(pairs), f"output_dir={tmp_path / 'first'}", "training.learning_rate=0.01")
    prefopt("train", write_config(pairs), f"reference.model={tmp_path / 'first'}", f"output_dir={tmp_path / 'second'}")
    assert metrics(tmp_path / "second")[0]["loss"] != pytest.approx(math.log(2), abs=1e-4)


def test_a_weighted_list_trains_with_metrics_per_part(prefopt, write_config, pairs, tmp_path):
    config = write_config(pairs, loss=[{"name": "dpo", "weight": 1.0}, {"name": "sft", "weight": 0.2}])
    outcome = prefopt("train", config)
    assert outcome.code == 0, outcome.err
    assert "dpo.chosen_reward" in metrics(tmp_path / "out")[0]


@pytest.mark.parametrize(
    ("loss", "rows"),
    [
        ("dpo", {"prompt": "Hi.", "completions": [" a", " bb", " ccc"], "scores": [1, 2, 3]}),
        ("pl_dpo", {"prompt": "Hi.", "completions": [" a", " bb", " ccc"], "scores": [1, 3, 2]}),
        ("kto", {"prompt": "Hi.", "completion": " a", "label": True}),
        ("bco", {"prompt": "Hi.", "completion": " a", "label": True, "undesirable_weight": 0.5}),
        ("odpo", {"prompt": "Hi.", "chosen": " a", "rejected": " b", "chosen_score": 2, "rejected_score": 1}),
        ("sft", {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}),
        ("simpo", {"prompt": [5, 6, 7], "chosen": [8, 9], "rejected": [10]}),
        (
            "orpo",
            {
                "prompt": [{"role": "user", "content": "Hi."}],
                "chosen": [{"role": "assistant", "content": "Hello."}],
                "rejected": [{"role": "assistant", "content": "No."}],
            },
        ),
    ],
)
def test_rows_of_every_kind_train(prefopt, write_config, write_rows, loss, rows):
    other = json.loads(json.dumps(rows).replace("Hi.", "Bye.").replace("[5, 6", "[4, 6").replace("true", "false"))
    outcome = prefopt("train", write_config(write_rows([rows, other])), f"loss={loss}")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(("loss", "mode"), [("tdpo2", "live"), ("wpo", "live"), ("wpo", "cached"), ("sampo", "cached")])
def test_distributions_and_tokens_are_read_in_training_and_evaluation(
    prefopt, write_config, pairs, tmp_path, loss, mode
):
    config = write_config(pairs, data={"evaluation": 3}, evaluation={"every_steps": 1}, reference={"mode": mode})
    outcome = prefopt("train", config, f"loss={loss}", "training.max_steps=2")
    assert outcome.code == 0, outcome.err
    assert metrics(tmp_path / "out")[0]["evaluation"]["loss"] > 0


def test_what_a_loss_carries_from_step_to_step_is_kept(prefopt, write_config, pairs, tmp_path):
    outcome = prefopt("train", write_config(pairs), "loss=bco_pair")
    assert outcome.code == 0, outcome.err
    state = load_state(tmp_path / "out")
    assert state["weight"] == 9


def test_evaluation_every_few_steps_is_kept_in_the_metrics(prefopt, write_config, pairs, tmp_path):
    config = write_config(pairs, data={"evaluation": 3}, evaluation={"every_steps": 1})
    outcome = prefopt("train", config)
    assert "step 1" in outcome.err
    assert "reward_accuracy" in metrics(tmp_path / "out")[0]["evaluation"]


def test_a_plugin_file_is_trained_with_by_name(prefopt, write_config, pairs, tmp_path):
    outcome = prefopt("train", write_config(pairs), "loss=hinge_example", "--plugin", HINGE)
    assert outcome.code == 0, outcome.err
    assert metrics(tmp_path / "out")[0]["loss"] == pytest.approx(1.0, abs=1e-6)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["plugins"][str(HINGE)].startswith("sha256:")
    (plugin,) = load_config(tmp_path / "out" / "config.resolved.yaml").plugins
    assert plugin.path == str(HINGE)
    assert plugin.sha256 == hashlib.sha256(HINGE.read_bytes()).hexdigest()


def test_a_plugin_file_that_has_changed_since_is_refused(prefopt, write_config, pairs, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(HINGE.read_text())
    assert prefopt("train", write_config(pairs), "loss=hinge_example", "--plugin", mine).code == 0
    mine.write_text(HINGE.read_text() + "\n")
    outcome = prefopt("train", tmp_path / "out" / "config.resolved.yaml", f"output_dir={tmp_path / 'again'}")
    assert "is not the one the config names" in outcome.error


def test_a_loss_of_an_installed_package_is_trained_with_by_name(write_config, pairs, tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            site,
            HINGE.parent,
        ],
        check=True,
        capture_output=True,
    )
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from prefopt.cli.app import main; main()"
    arguments = ["train", str(write_config(pairs)), "loss=hinge_example"]
    outcome = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert metrics(tmp_path / "out")[0]["loss"] == pytest.approx(1.0, abs=1e-6)


class TestMistakes:
    """Each gets one sentence and a non-zero exit code, never a traceback."""

    @pytest.mark.parametrize(
        ("override", "told"),
        [
            ("loss=dpoo", ["unknown loss 'dpoo'", "did you mean 'dpo'?", "available: alpha_dpo, alphapo"]),
            ("los=dpo", ["unknown key 'los'", "did you mean 'loss'?"]),
            ("loss.beta=-1", ["run.yaml: loss dpo: beta = -1", "greater than 0", "default 0.1"]),
            ("loss.betta=1", ["'betta'", "did you mean 'beta'"]),
            ("data.train=rowz.jsonl", ["rowz.jsonl"]),
            ("model=/nowhere/at/all", ["model folder '/nowhere/at/all' does not exist"]),
            ("model=no/such-model", ["no tokenizer could be loaded", "'no/such-model'"]),
            ("reference.mode=none", ["loss dpo needs reference log-probs", "'none'"]),
            ("loss=[{name: kto}, {name: sft, weight: 0.1}]", ["must accept the same rows"]),
            ("training.tokens_per_microbatch=5", ["row", "tokens_per_microbatch is 5", "raise it to at least"]),
            ("data.evaluation=9", ["data.evaluation = 9", "every one of the 9 rows"]),
            ("plugins=[nowhere.py]", ["plugin file 'nowhere.py' does not exist"]),
        ],
    )
    def test_a_bad_setting(self, prefopt, write_config, pairs, tmp_path, override, told):
        outcome = prefopt("train", write_config(pairs), override)
        for words in told:
            assert words in outcome.error
        assert not (tmp_path / "out").exists()

    def test_a_missing_config_file(self, prefopt, tmp_path):
        assert "does not exist" in prefopt("train", tmp_path / "none.yaml").error

    @pytest.mark.parametrize(
        ("row", "told"),
        [
            ({"prompt": "Hi.", "chosen": " a"}, "rejected"),
            ({"prompt": "Hi.", "chosen": " a", "rejected": " a"}, "equal"),
            ({"prompt": "Hi.", "chosen": "", "rejected": " a"}, "empty"),
        ],
    )
    def test_a_bad_row_is_named_or_skipped_and_listed(self, prefopt, write_config, write_rows, pair_rows, row, told):
        rows = write_rows([*pair_rows[:3], row])
        outcome = prefopt("train", write_config(rows))
        assert "row 4" in outcome.error
        assert told in outcome.error
        outcome = prefopt("train", write_config(rows), "data.on_bad_row=skip")
        assert outcome.code == 0, outcome.err
        assert "3 of 4 rows kept" in " ".join(outcome.err.split())
        assert told in outcome.err

    def test_a_prompt_beyond_max_length_is_cut_counted_and_listed(self, prefopt, write_config, write_rows, pair_rows):
        rows = write_rows([*pair_rows[:3], {"prompt": "so " * 200, "chosen": " a", "rejected": " b"}])
        outcome = prefopt("train", write_config(rows))
        assert outcome.code == 0, outcome.err
        assert "1 row truncated (4)" in outcome.err

    def test_kto_on_one_class(self, prefopt, write_config, write_rows):
        rows = [{"prompt": f"Hi {number}.", "completion": " a", "label": True} for number in range(3)]
        error = prefopt("train", write_config(write_rows(rows)), "loss=kto").error
        assert "all 3 rows are desirable" in error

    def test_rows_of_another_kind(self, prefopt, write_config, write_rows):
        rows = write_rows([{"prompt": "Hi.", "completion": " a", "label": True}])
        assert "loss dpo reads pairs; these rows are labels" in prefopt("train", write_config(rows)).error

    def test_an_output_folder_in_use(self, prefopt, write_config, pairs, tmp_path):
        config = write_config(pairs)
        assert prefopt("train", config).code == 0
        first = metrics(tmp_path / "out")
        assert "not empty" in prefopt("train", config).error
        assert metrics(tmp_path / "out") == first
        assert prefopt("train", config, "--overwrite").code == 0
        assert len(metrics(tmp_path / "out")) == len(first)

    def test_overwrite_keeps_the_old_run_until_the_new_one_is_valid(self, prefopt, write_config, pairs, tmp_path):
        config = write_config(pairs)
        assert prefopt("train", config).code == 0
        assert prefopt("train", config, "--overwrite", "data.train=rowz.jsonl").code != 0
        assert (tmp_path / "out" / "run.json").exists()

    def test_the_old_run_stays_until_every_model_is_loaded(self, prefopt, write_config, pairs, tmp_path):
        config = write_config(pairs)
        assert prefopt("train", config).code == 0
        assert prefopt("train", config, "--overwrite", "reference.model=/nowhere/x").code != 0
        assert (tmp_path / "out" / "model.safetensors").exists()

    def test_weights_that_diverge_in_the_last_step_are_no_tie(self, prefopt, write_config, pairs):
        settings = ["training.learning_rate=1e30", "training.max_steps=1", "training.max_grad_norm=null"]
        outcome = prefopt("train", write_config(pairs, data={"evaluation": 3}), *settings)
        assert "rows.jsonl row" in outcome.error

    def test_a_need_that_no_batch_meets_is_refused_before_anything_loads(self, prefopt, write_config, pairs, tmp_path):
        plugin = tmp_path / "mine.py"
        plugin.write_text(
            "import prefopt\n"
            "class Rated(prefopt.LabelLoss):\n"
            "    name = 'rated'\n"
            "    needs = prefopt.Needs(rows={'labels'}, scores=True)\n"
            "    def values(self, batch): return batch.completions.scores\n"
            "    def reward(self, completions): return completions.policy\n"
            "@prefopt.hookimpl\n"
            "def prefopt_register_losses(): return [Rated]\n"
        )
        outcome = prefopt("train", write_config(pairs, model="/nowhere/x"), "loss=rated", "--plugin", plugin)
        assert "loss rated needs scores of labelled rows" in outcome.error

    def test_a_row_whose_scores_the_loss_refuses_is_named_before_a_model_loads(
        self, prefopt, write_config, write_rows, pair_rows
    ):
        rows = [{**row, "chosen_score": 2, "rejected_score": 1} for row in pair_rows]
        rows[4]["rejected_score"] = 2
        outcome = prefopt("train", write_config(write_rows(rows)), "loss=odpo")
        assert "rows.jsonl row 5: loss odpo" in outcome.error

    def test_a_need_that_no_store_meets_is_refused_with_a_cached_reference(
        self, prefopt, write_config, pairs, tmp_path
    ):
        plugin = tmp_path / "mine.py"
        plugin.write_text(
            "import prefopt\n"
            "class Whole(prefopt.PairLoss):\n"
            "    name = 'whole'\n"
            "    needs = prefopt.Needs(rows={'pairs'}, reference=True, tokens=True, distribution='both')\n"
            "    def values(self, batch): return batch.chosen.log_ratio\n"
            "    def reward(self, completions): return completions.log_ratio\n"
            "@prefopt.hookimpl\n"
            "def prefopt_register_losses(): return [Whole]\n"
        )
        config = write_config(pairs, model="/nowhere/x", reference={"mode": "cached"})
        outcome = prefopt("train", config, "loss=whole", "--plugin", plugin)
        assert "which no store holds; set reference.mode to 'live'" in outcome.error

    def test_a_setting_peft_does_not_know_is_refused_before_anything_is_read(self, prefopt, write_config):
        outcome = prefopt("train", write_config("/nowhere/rows.jsonl"), "model.adapter={lora_alfa: 3}")
        assert "did you mean 'lora_alpha'?" in outcome.error

    def test_a_store_that_no_loss_reads_is_told(self, prefopt, write_config, pairs):
        outcome = prefopt("train", write_config(pairs, reference={"mode": "cached"}), "loss=simpo")
        assert outcome.code == 0, outcome.err
        assert "loss simpo reads no reference: the store is not used" in outcome.err

    def test_settings_beyond_the_run_get_a_line(self, prefopt, write_config, pairs):
        settings = ["training.warmup_steps=100", "evaluation.every_steps=50", "evaluation.samples=9"]
        outcome = prefopt("train", write_config(pairs, data={"evaluation": 3}), *settings)
        for words in ("training.warmup_steps = 100", "evaluation.every_steps = 50", "evaluation.samples = 9"):
            assert words in outcome.err

    def test_held_out_rows_that_are_trained_on_are_told(self, prefopt, write_config, pairs, write_rows, pair_rows):
        other = write_rows(pair_rows[:2], "held_out.jsonl")
        outcome = prefopt("train", write_config(pairs, data={"evaluation": str(other)}))
        assert "2 of 2 held-out rows also stand in the training rows" in outcome.err

    def test_a_loss_that_is_not_finite_names_rows_and_saves_the_last_good_weights(
        self, prefopt, write_config, pairs, tmp_path
    ):
        outcome = prefopt("train", write_config(pairs), "training.learning_rate=1e30", "training.max_grad_norm=null")
        assert "rows.jsonl row" in outcome.error
        assert "last_good" in outcome.error
        AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "last_good")


def test_the_module_is_the_command(write_config, pairs):
    arguments = [sys.executable, "-m", "prefopt", "train", str(write_config(pairs)), "loss=dpoo"]
    outcome = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("error: unknown loss 'dpoo'")
    assert outcome.stdout == ""

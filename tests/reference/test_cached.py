"""A run whose reference is cached: what it scores, reuses, loads and refuses."""

from __future__ import annotations

import gc
import json
import math
import shutil
import weakref
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import prefopt
from prefopt.config import parse_config
from prefopt.engine.logps import Scorer
from prefopt.errors import ConfigError, ModelError, StoreError
from prefopt.objective import build_loss
from prefopt.reference.store import Store
from prefopt.run import run
from prefopt.watcher import Watcher
from tests.models import tiny_model
from tests.reference.stores import flip_last_value

REGISTRY = prefopt.load_registry()


class Listener(Watcher):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def train(model_folder, pair_rows, tmp_path):
    """Trains for a step with a cached reference; gives what run.json says of the reference, and the first loss."""

    def run_(rows=pair_rows, *, loss="dpo", watcher=None, **changed):
        values = {
            "model": str(model_folder),
            "data": {"train": "in memory", "evaluation": 3, "max_length": 64},
            "loss": loss,
            "reference": {"mode": "cached"},
            "training": {"batch_size": 4, "learning_rate": 1e-3, "max_steps": 1, "tokens_per_microbatch": 256},
            "output_dir": str(tmp_path / "out"),
        }
        for key, value in changed.items():
            values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
        config = parse_config(values)
        record = run(config, build_loss(config, REGISTRY), train=rows, overwrite=True, watcher=watcher)
        first = json.loads((Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()[0])
        return {**record["reference"], "loss": first["loss"], "before": record["evaluation"]["before"]["loss"]}

    return run_


@pytest.fixture
def forwards(monkeypatch):
    """Rows and trees each model scored outside training."""
    found = []
    score = Scorer.score

    def counted(self, trees, **settings):
        found.append(trees)
        return score(self, trees, **settings)

    monkeypatch.setattr(Scorer, "score", counted)
    return found


def counts(found):
    return found["rows_scored"], found["rows_reused"], found["model_loaded"]


def test_the_first_run_scores_and_the_second_reads(train):
    assert counts(train()) == (9, 0, False)
    assert counts(train()) == (0, 9, False)


def test_a_sweep_over_losses_betas_seeds_and_folders_scores_once(train, tmp_path):
    """3 losses x 3 betas x 2 seeds x 2 output folders; what peers.md calls test 1."""
    fields = {"dpo": "beta", "ipo": "tau", "kto": "beta"}
    found = []
    for loss, beta, seed, folder in product(fields, (0.05, 0.1, 0.5), (0, 1), ("a", "b")):
        settings = {"training": {"seed": seed, "learning_rate": beta * 1e-3}, "output_dir": str(tmp_path / folder)}
        found.append((loss, counts(train(loss={"name": loss, fields[loss]: beta}, **settings))))
    assert len(found) == 36
    scored = [(loss, own) for loss, own in found if own != (0, 9, False)]
    # KTO reads mismatched completions besides, which the first of its runs scores.
    assert scored == [("dpo", (9, 0, False)), ("kto", (9, 0, False))]


def test_one_more_row_scores_one_row_and_less_scores_none(train, pair_rows):
    train(pair_rows[:8])
    assert counts(train(pair_rows)) == (1, 8, False)
    assert counts(train(pair_rows[::-1])) == (0, 9, False)
    assert counts(train(pair_rows[2:7])) == (0, 5, False)


def test_the_first_loss_of_dpo_is_ln_2_from_the_store_too(train):
    train()
    again = train()
    assert again["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert again["before"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto"])
def test_a_run_from_the_store_is_the_run_with_the_model(train, loss):
    train(loss=loss)
    stored = train(loss=loss)
    live = train(loss=loss, reference={"mode": "live"})
    assert live["model_loaded"]
    assert stored["loss"] == pytest.approx(live["loss"], rel=1e-5)


class TestStaleHits:
    """What changes a log-prob misses; peers.md, test 5."""

    @pytest.fixture(autouse=True)
    def _scored(self, train):
        train()

    def test_truncation(self, train, pair_rows):
        long = [{**row, "prompt": "so so so so " * 9 + row["prompt"]} for row in pair_rows]
        assert counts(train(long))[0] == 9
        assert counts(train(long, data={"max_length": 32}))[0] == 9
        assert counts(train(long, data={"max_length": 32}))[0] == 0

    def test_precision(self, train, model_folder):
        assert counts(train(model={"name": str(model_folder), "dtype": "bfloat16"}))[0] == 9
        assert counts(train(model={"name": str(model_folder), "dtype": "float32"}))[0] == 0

    def test_one_changed_weight(self, train, model_folder, tmp_path):
        shutil.copytree(model_folder, tmp_path / "changed")
        assert counts(train(model=str(tmp_path / "changed")))[0] == 0
        weights = load_file(tmp_path / "changed" / "model.safetensors")
        weights["model.norm.weight"][3] += 1e-3
        save_file(weights, tmp_path / "changed" / "model.safetensors", metadata={"format": "pt"})
        assert counts(train(model=str(tmp_path / "changed")))[0] == 9

    def test_another_chat_template(self, train, model_folder, tmp_path, pair_rows):
        chats = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "chosen": [{"role": "assistant", "content": row["chosen"]}],
                "rejected": [{"role": "assistant", "content": row["rejected"]}],
            }
            for row in pair_rows
        ]
        assert counts(train(chats))[0] == 9
        shutil.copytree(model_folder, tmp_path / "other")
        words = AutoTokenizer.from_pretrained(tmp_path / "other")
        words.chat_template = words.chat_template.replace("<|im_start|>", "<|im_start|> ", 1)
        words.save_pretrained(tmp_path / "other")
        assert counts(train(chats, model=str(tmp_path / "other")))[0] == 9

    def test_another_end_of_sequence(self, train, model_folder, tmp_path):
        shutil.copytree(model_folder, tmp_path / "other")
        words = AutoTokenizer.from_pretrained(tmp_path / "other")
        words.eos_token = words.convert_ids_to_tokens(5)
        words.save_pretrained(tmp_path / "other")
        assert counts(train(model=str(tmp_path / "other")))[0] == 9

    def test_another_reference_model(self, train, other_model):
        assert counts(train(reference={"mode": "cached", "model": str(other_model)})) == (9, 0, True)


@pytest.fixture
def other_model(model_folder, tmp_path):
    words = AutoTokenizer.from_pretrained(model_folder)
    tiny_model("llama", vocab_size=len(words), seed=3).save_pretrained(tmp_path / "reference")
    words.save_pretrained(tmp_path / "reference")
    return tmp_path / "reference"


def test_another_reference_model_is_loaded_once_and_then_never(train, other_model, monkeypatch):
    reference = {"mode": "cached", "model": str(other_model)}
    assert counts(train(reference=reference)) == (9, 0, True)
    from prefopt.reference import loading

    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("the reference was loaded"))
    assert counts(train(reference=reference)) == (0, 9, False)


def test_the_reference_model_is_gone_before_the_policy_is_loaded(train, other_model, monkeypatch):
    from prefopt import run as running
    from prefopt.reference import loading

    seen, alive = [], []
    load = loading.load_model

    def watched(*arguments, **settings):
        model = load(*arguments, **settings)
        seen.append(weakref.ref(model))
        return model

    def policy(*arguments, **settings):
        gc.collect()
        alive.append(seen[0]() is not None)
        return load(*arguments, **settings)

    monkeypatch.setattr(loading, "load_model", watched)
    monkeypatch.setattr(running, "load_model", policy)
    assert train(reference={"mode": "cached", "model": str(other_model)})["model_loaded"]
    assert alive == [False]


def test_strict_refuses_before_any_model_is_loaded(train, pair_rows, monkeypatch, model_folder):
    train(pair_rows[:7])
    monkeypatch.setattr("prefopt.run.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(StoreError, match=r"reference\.strict: 2 of 9 rows are not in the log-prob store .* list row 8"):
        train(reference={"mode": "cached", "strict": True})
    other = {"name": str(model_folder), "dtype": "bfloat16"}
    with pytest.raises(StoreError, match="the store holds this model's log-probs in float32, and bfloat16 is wanted"):
        train(reference={"mode": "cached", "strict": True}, model=other)


def test_strict_tells_rows_that_lack_a_mismatched_completion_alone(train, pair_rows):
    train(loss="dpo")
    with pytest.raises(StoreError, match=r"9 of 9 rows .* \(9 of them lack a mismatched completion alone"):
        train(loss="kto", reference={"mode": "cached", "strict": True})


def test_strict_trains_on_what_is_stored(train):
    train()
    assert counts(train(reference={"mode": "cached", "strict": True})) == (0, 9, False)


@pytest.mark.parametrize(("verify_rows", "verified"), [(8, 8), (3, 3), (100, 9), (0, 0)])
def test_stored_rows_are_scored_again_before_the_first_step(train, forwards, verify_rows, verified):
    train()
    forwards.clear()
    found = train(reference={"mode": "cached", "verify_rows": verify_rows})
    assert found["rows_verified"] == verified


def test_wrong_stored_values_stop_the_run(train, tmp_path):
    place = tmp_path / "store"
    identity = train(reference={"mode": "cached", "cache_dir": str(place)})["identity"]
    store = Store(str(place), identity)
    from prefopt.reference.shard import Entry

    (shard,) = store.shards
    wrong = [Entry(own, shard.read(row) - 0.1) for row, own in enumerate(shard.keys.tolist())]
    shard.path.unlink()
    store.add(wrong, shard.about["made_by"])
    with pytest.raises(StoreError, match=r"list row \d: the stored .* differ from the model's by 0.1 nats"):
        train(reference={"mode": "cached", "cache_dir": str(place)})


def damage(folder):
    (path,) = folder.rglob("*.arrow")
    flip_last_value(path)


def test_a_damaged_row_stops_the_run_before_any_model_is_loaded(train, tmp_path, monkeypatch):
    reference = {"mode": "cached", "cache_dir": str(tmp_path / "store"), "verify_rows": 0}
    train(reference=reference)
    damage(tmp_path / "store")
    monkeypatch.setattr("prefopt.run.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(StoreError, match="is damaged: .*gc --damaged --cache-dir .*store --yes"):
        train(reference=reference)


def test_damage_during_training_saves_the_weights_as_they_stand(train, tmp_path, monkeypatch):
    reference = {"mode": "cached", "cache_dir": str(tmp_path / "store")}
    train(reference=reference)
    from prefopt.training.trainer import Trainer

    run_, store = Trainer.run, tmp_path / "store"

    def damaged(self, after_step):
        damage(store)
        run_(self, after_step)

    monkeypatch.setattr(Trainer, "run", damaged)
    with pytest.raises(StoreError, match="is damaged: .*; the weights as they stood are in .*last_good"):
        train(reference=reference, data={"evaluation": None}, training={"batch_size": 9})
    assert (tmp_path / "out" / "last_good" / "model.safetensors").exists()


@pytest.mark.parametrize("own", [True, False])
def test_weights_that_change_while_they_are_loaded_are_never_stored(train, other_model, tmp_path, monkeypatch, own):
    from prefopt import run as running
    from prefopt.reference import loading

    module = running if own else loading
    load = module.load_model

    def changing(settings, **seed):
        model = load(settings, **seed)
        weights = load_file(other_model / "model.safetensors")
        weights["model.norm.weight"] += 1
        save_file(weights, other_model / "model.safetensors", metadata={"format": "pt"})
        return model

    monkeypatch.setattr(module, "load_model", changing)
    place = {"mode": "cached", "cache_dir": str(tmp_path / "store")}
    settings = {"model": str(other_model)} if own else {}
    with pytest.raises(ModelError, match="changed while it was being loaded"):
        train(reference=place if own else {**place, "model": str(other_model)}, **settings)
    assert not list((tmp_path / "store").rglob("*.arrow"))


def test_a_reference_that_is_the_policy_by_another_name_is_scored_by_it_and_verified(train, model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "copy")
    reference = {"mode": "cached", "model": str(tmp_path / "copy")}
    assert counts(train(reference=reference)) == (9, 0, False)
    assert train(reference=reference)["rows_verified"] == 8


def test_what_a_store_nearly_holds_is_told(train, model_folder):
    listener = Listener()
    train()
    train(model={"name": str(model_folder), "dtype": "bfloat16"}, watcher=listener)
    (line,) = [line for line in listener.lines if "the store holds" in line]
    assert "in float32, and bfloat16 is wanted; that is another reference" in line


def test_an_interruption_while_scoring_says_that_work_is_kept(train, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    listener = Listener()
    monkeypatch.setattr("prefopt.reference.cached.fill", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(watcher=listener)
    assert listener.lines[-1] == "what was scored is kept, and the next start goes on from there"


def test_the_store_is_recorded_so_that_it_is_found_from_anywhere(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(reference={"mode": "cached", "cache_dir": "here"})["store"] == str(tmp_path / "here")


def test_a_loss_without_a_reference_reads_no_store(train, tmp_path):
    found = train(loss="simpo", reference={"mode": "cached", "cache_dir": str(tmp_path / "store")})
    assert found["mode"] == "none"
    assert not (tmp_path / "store").exists()


LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


class TestAdapters:
    """The reference of a LoRA run is its base or its initial adapter, by identity; peers.md, test 19."""

    @pytest.fixture(autouse=True)
    def _peft(self):
        pytest.importorskip("peft")

    def test_a_new_adapter_reads_what_was_scored_for_its_base_whatever_its_seed(self, train, model_folder):
        train()
        for seed in (0, 1):
            lora = {"name": str(model_folder), "adapter": LORA}
            found = train(model=lora, training={"seed": seed})
            assert counts(found) == (0, 9, False)
            assert found["rows_verified"] == 8
            assert found["loss"] == pytest.approx(math.log(2), abs=1e-4)

    def test_a_trained_adapter_is_its_own_reference_unless_the_base_is_named(self, train, model_folder, tmp_path):
        lora = {"name": str(model_folder), "adapter": LORA}
        train(model=lora, output_dir=str(tmp_path / "lora"), training={"max_steps": 5, "learning_rate": 0.05})
        assert (tmp_path / "lora" / "adapter_model.safetensors").exists()
        assert not (tmp_path / "lora" / "model.safetensors").exists()
        more = {"name": str(model_folder), "adapter": {"path": str(tmp_path / "lora")}}
        first = train(model=more)
        assert counts(first) == (9, 0, False)
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
        base = train(model=more, reference={"mode": "cached", "model": str(model_folder)})
        assert counts(base) == (0, 9, False)
        assert base["loss"] != pytest.approx(math.log(2), abs=1e-3)
        assert counts(train(model=str(tmp_path / "lora"))) == (0, 9, False)

    def test_only_the_adapter_is_trained(self, train, model_folder, tmp_path):
        before = load_file(model_folder / "model.safetensors")
        train(model={"name": str(model_folder), "adapter": LORA}, output_dir=str(tmp_path / "lora"))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "lora")
        for name, weight in model.named_parameters():
            if "lora" not in name:
                assert torch.equal(weight, before[name.replace(".base_layer", "")])


def test_settings_of_the_store_without_it_are_refused(train):
    for key, value in {"cache_dir": "x", "strict": True, "verify_rows": 3}.items():
        with pytest.raises(ConfigError, match=rf"reference\.{key} has no effect with reference\.mode 'live'"):
            train(reference={"mode": "live", key: value})

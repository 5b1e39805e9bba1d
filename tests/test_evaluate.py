from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import prefopt
from prefopt.config import parse_config
from prefopt.data.load import load_rows
from prefopt.errors import ConfigError, DataError, ModelError
from prefopt.evaluate import evaluate
from prefopt.run import run
from prefopt.watcher import Watcher
from tests.evaluation.servers import ScriptedServer, chat, completion, longer_wins, refusal

REGISTRY = prefopt.load_registry()
COLOURS = ["red", "green", "blue", "white", "black", "yellow", "brown", "grey", "pink"]
ROWS = [
    {"prompt": f"Tell me about {colour}.", "chosen": f" I like {colour} a lot", "rejected": f" {colour} is bad"}
    for colour in COLOURS
]


def config_for(folder, place, loss="dpo", **changes):
    values = {
        "model": {"name": str(folder)},
        "data": {"train": "in memory", "evaluation": 4, "max_length": 64},
        "loss": loss,
        "training": {"batch_size": 4, "learning_rate": 3e-3, "max_steps": 3, "tokens_per_microbatch": 256},
        "evaluation": {"num_prompts": 3, "samples": 1, "max_new_tokens": 5},
        "output_dir": str(place / "out"),
    }
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return parse_config(values)


def loss_of(config):
    part = config.loss[0]
    return REGISTRY.loss(part.name, **part.hyperparameters)


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """A run of DPO, its folder and what run.json holds."""
    place = tmp_path_factory.mktemp("trained")
    config = config_for(model_folder, place)
    return place, run(config, loss_of(config), train=ROWS)


def measure(folder, place, tmp_path, *, train=ROWS, loss="dpo", evaluated=None, watcher=None, **changes):
    config = config_for(folder, place, loss, **changes)
    output = str(tmp_path / "evaluation.json")
    return evaluate(config, loss_of(config), model=evaluated, output=output, train=train, watcher=watcher)


def test_a_policy_agrees_with_what_its_run_measured_and_with_plain_transformers(trained, model_folder, tmp_path):
    place, record = trained
    found = measure(model_folder, place, tmp_path)
    after = record["evaluation"]["after"]
    for name in ("loss", "num_pairs", "reward_accuracy", "reward_margin", "reward_accuracy_interval"):
        assert found["held_out"][name] == pytest.approx(after[name], rel=1e-5)
    words = AutoTokenizer.from_pretrained(model_folder)
    policy, reference = (AutoModelForCausalLM.from_pretrained(path) for path in (place / "out", model_folder))
    numbers = record["data"]["held_out"]
    rows = [row for row in load_rows(ROWS, words, max_length=64)[0] if row.name in numbers]
    ratios, kls, tokens = {"chosen": [], "rejected": []}, [], 0
    for row in rows:
        for side, own in zip(ratios, row.completions, strict=True):
            ids = torch.tensor([[*row.prompt, *own.ids]])
            with torch.no_grad():
                ours, theirs = (
                    model(ids).logits[0, len(row.prompt) - 1 : -1].double().log_softmax(-1)
                    for model in (policy, reference)
                )
            picked = torch.tensor(own.ids)[:, None]
            ratios[side].append(float((ours.gather(1, picked) - theirs.gather(1, picked)).sum()))
            kls.append(float((ours.exp() * (ours - theirs)).sum()))
            tokens += len(own.ids)
    for side, values in ratios.items():
        assert found["displacement"][side]["log_ratio"]["mean"] == pytest.approx(sum(values) / 4, rel=1e-4)
        assert found["displacement"][side]["share_fell"] == sum(value < 0 for value in values) / 4
    assert found["kl"]["data"]["per_token"]["mean"] == pytest.approx(sum(kls) / tokens, rel=1e-3)
    margins = [0.1 * (one - other) for one, other in zip(*ratios.values(), strict=True)]
    assert found["held_out"]["margins"]["mean"] == pytest.approx(sum(margins) / 4, rel=1e-4)
    assert found["held_out"]["margins"]["quantiles"]["0.5"] == pytest.approx(sorted(margins)[1], rel=1e-4)
    brier = sum((1 - 1 / (1 + math.exp(-margin))) ** 2 for margin in margins) / 4
    assert found["held_out"]["calibration"]["brier"] == pytest.approx(brier, rel=1e-4)
    assert found["held_out"]["calibration"]["loss_is_bradley_terry"]
    assert found["kl"]["sampled"]["per_completion"]["mean"] > 0
    assert json.loads((tmp_path / "evaluation.json").read_text()) == found


def test_the_initial_model_is_its_own_reference(trained, model_folder, tmp_path):
    place, _ = trained
    for mode in ("live", "cached"):
        (tmp_path / mode).mkdir()
        changes = {"evaluated": str(model_folder), "reference": {"mode": mode}}
        found = measure(model_folder, place, tmp_path / mode, **changes)
        assert found["held_out"]["reward_accuracy"] == pytest.approx(0.5)
        assert found["held_out"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert found["kl"]["data"]["per_token"]["mean"] == pytest.approx(0, abs=1e-5)
        assert found["kl"]["sampled"]["per_completion"]["mean"] == pytest.approx(0, abs=1e-5)


def test_the_store_gives_the_numbers_of_the_live_reference_and_loads_none_without_answers(
    trained, model_folder, tmp_path
):
    place, _ = trained
    (tmp_path / "live").mkdir()
    live = measure(model_folder, place, tmp_path / "live")
    cached = {"reference": {"mode": "cached", "cache_dir": str(tmp_path / "store")}}
    first = measure(model_folder, place, tmp_path, **cached)
    (tmp_path / "evaluation.json").unlink()
    second = measure(model_folder, place, tmp_path, evaluation={"num_prompts": 0}, **cached)
    assert (first["reference"]["rows_scored"], second["reference"]["rows_scored"]) == (4, 0)
    assert not second["reference"]["model_loaded"]
    assert "kl" not in second
    for found in (first, second):
        assert found["held_out"]["loss"] == pytest.approx(live["held_out"]["loss"], rel=1e-4)
        mean = found["displacement"]["chosen"]["log_ratio"]["mean"]
        assert mean == pytest.approx(live["displacement"]["chosen"]["log_ratio"]["mean"], rel=1e-3)
    assert first["kl"]["data"] == live["kl"]["data"]


@pytest.mark.parametrize("loss", ["simpo", "ipo", "sft", "kto", "tdpo2"])
def test_every_kind_of_loss_is_measured_against_the_initial_policy(loss, trained, model_folder, tmp_path):
    place, _ = trained
    found = measure(model_folder, place, tmp_path, loss=loss, evaluation={"num_prompts": 0})
    assert set(found["displacement"]) == {"chosen", "rejected"}
    assert found["kl"]["data"]["per_token"]["mean"] > 0
    assert not found["held_out"]["calibration"]["loss_is_bradley_terry"]


def test_demonstrations_have_no_pairs_to_win(trained, model_folder, tmp_path):
    place, _ = trained
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
    found = measure(
        model_folder, place, tmp_path, loss="sft", train=rows, evaluation={"judge": "length", "against": "chosen"}
    )
    assert set(found["held_out"]) == {"loss", "num_pairs"}
    assert set(found["displacement"]) == {"chosen"}
    assert found["win_rate"]["rows_without_other"] == 0


def test_an_evaluation_file_alone_is_read_and_no_training_rows(trained, model_folder, tmp_path, write_rows):
    place, _ = trained
    held_out = write_rows(ROWS[:4])
    changes = {"data": {"train": str(tmp_path / "gone.jsonl"), "evaluation": str(held_out)}}
    config = config_for(model_folder, place, **changes)
    found = evaluate(config, loss_of(config), output=str(tmp_path / "evaluation.json"))
    assert found["data"]["num_rows"] == 4
    assert [own["row"] for own in found["samples"]] == [f"{held_out} row {number}" for number in (1, 2, 3)]


def test_an_adapter_is_measured_against_its_base(model_folder, tmp_path):
    pytest.importorskip("peft")
    config = config_for(model_folder, tmp_path, model={"name": str(model_folder), "adapter": {"r": 4}})
    record = run(config, loss_of(config), train=ROWS)
    found = evaluate(config, loss_of(config), train=ROWS)
    assert found["held_out"]["reward_margin"] == pytest.approx(record["evaluation"]["after"]["reward_margin"], rel=1e-4)
    assert found["held_out"]["reward_margin"] != 0
    assert (tmp_path / "out" / "evaluation.json").exists()


def test_an_adapter_that_began_as_something_else_needs_a_named_reference(model_folder, tmp_path):
    adapter = {"r": 4, "init_lora_weights": "pissa"}
    with pytest.raises(ConfigError, match=r"model.adapter.init_lora_weights .* name the reference in reference.model"):
        measure(model_folder, tmp_path, tmp_path, model={"name": "m", "adapter": adapter}, evaluated=str(model_folder))


# What the policy writes ----------------------------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_and_the_kl_is_that_of_temperature_1(trained, model_folder, tmp_path):
    place, _ = trained
    found = []
    for name, changes in {"a": {}, "b": {}, "c": {"temperature": 0.3, "top_p": 0.9}}.items():
        (tmp_path / name).mkdir()
        found.append(measure(model_folder, place, tmp_path / name, evaluation=changes))
    first, again, cold = found
    assert first["samples"] == again["samples"] != cold["samples"]
    assert first["kl"] == again["kl"] == cold["kl"]


def test_policy_and_reference_do_not_share_their_random_numbers(model_folder, tmp_path):
    """The same model on both sides: shared numbers would make every comparison a tie."""
    judged = {"judge": "length", "num_prompts": 4, "max_new_tokens": 12}
    (tmp_path / "out").mkdir()
    found = measure(model_folder, tmp_path, tmp_path, evaluated=str(model_folder), evaluation=judged)
    assert found["win_rate"]["ties"] < 4


def test_answers_longer_than_the_model_takes_are_refused(trained, model_folder, tmp_path):
    place, _ = trained
    with pytest.raises(ConfigError, match=r"evaluation.max_new_tokens = 5000 .* positions; lower it"):
        measure(model_folder, place, tmp_path, evaluation={"max_new_tokens": 5000})


def test_a_served_policy_writes_to_the_prompts_as_they_stand_in_the_data(trained, model_folder, tmp_path):
    pytest.importorskip("openai")
    place, _ = trained
    lines = []
    watcher = Watcher()
    watcher.say = lines.append
    with ScriptedServer(lambda path, body, headers: completion(f"<{body['prompt']}>")) as server:
        settings = {"policy_endpoint": {"url": server.url, "model": "served"}, "judge": "length", "against": "chosen"}
        found = measure(model_folder, place, tmp_path, evaluation=settings, watcher=watcher)
    prompts = {row["prompt"] for row in ROWS}
    assert len(found["samples"]) == 3
    assert all(own["completion"][1:-1] in prompts for own in found["samples"])
    assert len({body["seed"] for body in server.requests}) == 4
    assert any("may write greedily" in line for line in lines)  # the same under two seeds
    assert "sampled" not in found["kl"]
    assert "written" not in found


def test_a_served_policy_that_does_not_answer_stops_before_any_model_is_loaded(trained, tmp_path, model_folder):
    pytest.importorskip("openai")
    place, _ = trained
    with ScriptedServer(lambda *_: refusal(401, "no")) as server:
        settings = {"policy_endpoint": {"url": server.url, "model": "served", "retries": 0}}
        with pytest.raises(ModelError, match=r"evaluation.policy_endpoint: .* refuses the key"):
            measure(model_folder, place, tmp_path, evaluation=settings)
    assert not (tmp_path / "evaluation.json").exists()


# Who judges ----------------------------------------------------------------------------------------------------------


def test_a_judge_that_fails_leaves_everything_else_and_a_new_start_asks_the_rest(trained, model_folder, tmp_path):
    pytest.importorskip("openai")
    place, _ = trained
    limit = [1]

    def answer(path, body, headers):
        return longer_wins(path, body, headers) if len(server.requests) <= limit[0] else refusal(400, "no money")

    with ScriptedServer(answer) as server:
        judge = {"url": server.url, "model": "j", "prompt": "dialogue", "retries": 0, "concurrency": 1}
        settings = {"judge": judge, "against": "chosen"}
        with pytest.raises(
            ModelError, match="no money.* what was judged so far in .* --overwrite asks for the rest alone"
        ):
            measure(model_folder, place, tmp_path, evaluation=settings)
        kept = json.loads((tmp_path / "evaluation.json").read_text())
        assert "win_rate" not in kept
        assert kept["held_out"]["num_pairs"] == 4
        (tmp_path / "evaluation.json").unlink()
        limit[0] = 100
        found = measure(model_folder, place, tmp_path, evaluation=settings)
    assert found["win_rate"]["asked"] == 2
    assert found["win_rate"]["wins"] + found["win_rate"]["losses"] + found["win_rate"]["ties"] == 3
    assert len((tmp_path / "judgements.jsonl").read_text().splitlines()) == 3


def test_conversations_are_judged_as_conversations(trained, model_folder, tmp_path):
    pytest.importorskip("openai")
    place, _ = trained

    def talk(row, side):
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]

    rows = [{side: talk(row, side) for side in ("chosen", "rejected")} for row in ROWS]
    with ScriptedServer(lambda *_: chat("Preferred: tie")) as server:
        judge = {"url": server.url, "model": "j", "prompt": "summarisation_concise"}
        found = measure(model_folder, place, tmp_path, train=rows, evaluation={"judge": judge, "against": "chosen"})
    assert found["win_rate"]["ties"] == 3
    asked = [body["messages"][0]["content"] for body in server.requests]
    assert all("user: Tell me about" in text and "I like" in text for text in asked)


def test_gsm8k_reads_the_column_answer_and_says_before_any_model_loads_where_there_is_none(
    trained, model_folder, tmp_path
):
    place, _ = trained
    rows = [{**row, "answer": number} for number, row in enumerate(ROWS)]
    found = measure(model_folder, place, tmp_path, train=rows, evaluation={"judge": "gsm8k"})
    assert found["win_rate"]["scores"]["policy"]["mean"] <= 1
    lines = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert {line["truth"] for line in lines} <= set(map(str, range(9)))
    (tmp_path / "evaluation.json").unlink()
    with pytest.raises(DataError, match="give the rows a column answer"):
        measure(model_folder, place, tmp_path, evaluation={"judge": "gsm8k"})


def test_undesirable_labels_have_no_good_answer_and_are_left_out(trained, model_folder, tmp_path):
    place, _ = trained
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in ROWS
        for side in ("chosen", "rejected")
    ]
    settings = {"judge": "length", "against": "chosen", "num_prompts": 8}
    found = measure(model_folder, place, tmp_path, loss="kto", train=rows, data={"evaluation": 8}, evaluation=settings)
    left_out = sum(not rows[int(own["row"].split()[-1]) - 1]["label"] for own in found["samples"])
    assert 0 < left_out == found["win_rate"]["rows_without_other"] < 8


# Where the numbers go ------------------------------------------------------------------------------------------------


def test_an_earlier_evaluation_is_replaced_only_when_asked(trained, model_folder, tmp_path):
    place, _ = trained
    config = config_for(model_folder, place, evaluation={"num_prompts": 0})
    output = tmp_path / "evaluation.json"
    evaluate(config, loss_of(config), output=str(output), train=ROWS)
    before = output.read_bytes()
    with pytest.raises(ConfigError, match="is there already; pass --overwrite"):
        evaluate(config, loss_of(config), output=str(output), train=ROWS)
    assert output.read_bytes() == before
    evaluate(config, loss_of(config), output=str(output), overwrite=True, train=ROWS)
    for wrong, told in ((tmp_path, "is a folder"), (tmp_path / "no" / "x.json", "lies in no folder")):
        with pytest.raises(ConfigError, match=told):
            evaluate(config, loss_of(config), output=str(wrong), train=ROWS)


def test_what_is_missing_is_told(model_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no trained model; train it with `prefopt train`"):
        measure(model_folder, tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"data.evaluation names none; set it"):
        measure(
            model_folder, tmp_path, tmp_path, data={"evaluation": None}, evaluation={"samples": 0, "max_new_tokens": 64}
        )


def test_several_processes_are_refused(trained, model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started with 2 processes, but it runs in one"):
        measure(model_folder, trained[0], tmp_path)

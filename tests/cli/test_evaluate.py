from __future__ import annotations

import _thread
import json
import time

import pytest

from tests.evaluation.servers import ScriptedServer, longer_wins


@pytest.fixture
def pairs(write_rows, pair_rows):
    return write_rows(pair_rows, "pairs.jsonl")


@pytest.fixture
def config(prefopt, write_config, pairs):
    """The config of a run that is done."""
    path = write_config(pairs, data={"evaluation": 4}, evaluation={"samples": 1, "num_prompts": 3, "max_new_tokens": 6})
    assert prefopt("train", path).code == 0
    return path


def test_a_trained_model_is_measured_and_the_numbers_fit_a_terminal(prefopt, config, tmp_path):
    outcome = prefopt("evaluate", config, "evaluation.judge=length")
    assert outcome.code == 0, outcome.err
    assert str(tmp_path / "out" / "evaluation.json") in outcome.err
    for words in ("reward accuracy", "quantiles", "calibration", "chosen", "KL(policy || reference)", "win rate"):
        assert words in outcome.out
    lines = [line for line in outcome.out.splitlines() if str(tmp_path) not in line and "/" not in line]
    assert max(lines, key=len) == max(lines, key=len)[:79]
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert f"{found['held_out']['loss']:.4f}" in outcome.out
    assert f"{found['win_rate']['rate']:.3f}" in outcome.out
    assert found["plugins"]
    assert len((tmp_path / "out" / "judgements.jsonl").read_text().splitlines()) == 3


def test_a_second_evaluation_is_refused_overwritten_or_put_elsewhere(prefopt, config, tmp_path):
    assert prefopt("evaluate", config, "evaluation.num_prompts=0").code == 0
    assert "is there already; pass --overwrite" in prefopt("evaluate", config).error
    assert prefopt("evaluate", config, "--overwrite").code == 0
    other = tmp_path / "initial.json"
    initial = json.loads((tmp_path / "out" / "evaluation.json").read_text())["reference"]["name"]
    outcome = prefopt("evaluate", config, "--model", initial, "--output", other)
    assert outcome.code == 0, outcome.err
    assert json.loads(other.read_text())["held_out"]["reward_margin"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["evaluation.judge=lenght"],
            "unknown judge 'lenght'; did you mean 'length'? available: gsm8k, length, sentiment",
        ),
        (
            ["evaluation.judge.name=length", "evaluation.judge.model=m"],
            "names both 'length' and 'm'; remove one of them",
        ),
        (["evaluation.judge.model=./nowhere"], "reward model folder './nowhere' does not exist"),
        (
            ["data.evaluation=null", "evaluation.samples=0", "evaluation.max_new_tokens=64"],
            "data.evaluation names none",
        ),
        (["output_dir=not-there"], "output_dir 'not-there' holds no trained model; train it with `prefopt train`"),
        (["--model", "./nowhere"], "model folder './nowhere' does not exist"),
        (["evaluation.top_p=2"], "evaluation.top_p = 2"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(prefopt, config, settings, told):
    outcome = prefopt("evaluate", config, *settings)
    assert told in outcome.error


def test_a_served_judge_whose_key_is_nowhere_written(prefopt, config, tmp_path, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with ScriptedServer(longer_wins) as server:
        settings = [
            f"evaluation.judge.url={server.url}",
            "evaluation.judge.model=j",
            "evaluation.judge.prompt=dialogue",
        ]
        outcome = prefopt("evaluate", config, *settings, "evaluation.judge.api_key_env=JUDGE_KEY")
    assert outcome.code == 0, outcome.err
    assert "judged by j, dialogue" in outcome.out
    assert "shown first" in outcome.out
    written = "".join(path.read_text() for path in (tmp_path / "out").glob("*.json*"))
    assert "JUDGE_KEY" in written
    assert "secret" not in written + outcome.out + outcome.err


def test_interrupting_keeps_what_was_judged(prefopt, config, tmp_path):
    pytest.importorskip("openai")
    judgements = tmp_path / "out" / "judgements.jsonl"

    def answer(path, body, headers):
        if len(server.requests) == 3:
            while not judgements.exists() or len(judgements.read_text().splitlines()) < 2:
                time.sleep(0.01)
            _thread.interrupt_main()
        return longer_wins(path, body, headers)

    with ScriptedServer(answer) as server:
        judge = [f"evaluation.judge.url={server.url}", "evaluation.judge.model=j", "evaluation.judge.prompt=dialogue"]
        again = ["evaluation.judge.concurrency=1", "evaluation.against=chosen"]
        outcome = prefopt("evaluate", config, *judge, *again)
    assert outcome.code == 130
    assert "interrupted" in outcome.err
    assert not (tmp_path / "out" / "evaluation.json").exists()
    assert len(judgements.read_text().splitlines()) >= 2

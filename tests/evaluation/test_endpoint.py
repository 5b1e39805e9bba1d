from __future__ import annotations

import json
import shutil
import sys
import time

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.config.evaluation import EndpointConfig, JudgeConfig
from prefopt.errors import ConfigError, ModelError
from prefopt.evaluation.endpoint import Endpoint, Request
from prefopt.evaluation.judges.judgements import Judgements
from prefopt.evaluation.judges.served import ServedJudge
from prefopt.evaluation.judges.win_rate import win_rate
from prefopt.evaluation.sampling import complete
from tests.evaluation.judges.comparisons import compared
from tests.evaluation.servers import ScriptedServer, chat, completion, free_port, refusal, transformers_server

pytest.importorskip("openai")


def ask(url, prompts=("hello",), **settings):
    endpoint = Endpoint(EndpointConfig(url=url, model="m", **{"retries": 0, **settings}), "evaluation.judge")
    requests = [Request(prompt, 5, 0.5, 0.9, seed=3) for prompt in prompts]
    return endpoint.answers(requests)


def error(url, **settings):
    with pytest.raises(ModelError) as caught:
        list(ask(url, **settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_texts_are_continued_and_conversations_answered_with_the_settings_of_the_request():
    def answer(path, body, headers):
        assert headers["Authorization"] == "Bearer none"
        if path == "/v1/completions":
            return completion(body["prompt"] + "!")
        assert path == "/v1/chat/completions"
        return chat(body["messages"][0]["content"] + "?")

    with ScriptedServer(answer) as server:
        found = dict(ask(server.url, ["one", [{"role": "user", "content": "two"}]]))
    assert found == {0: "one!", 1: "two?"}
    for body in server.requests:
        settings = {name: body[name] for name in ("model", "max_tokens", "temperature", "top_p", "seed")}
        assert settings == {"model": "m", "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 3}


def test_as_many_requests_are_under_way_as_asked_for_and_each_keeps_its_number():
    def answer(path, body, headers):
        time.sleep(0.05)
        return completion(body["prompt"] * 2)

    with ScriptedServer(answer) as server:
        found = dict(ask(server.url, [str(number) for number in range(30)], concurrency=5))
    assert found == {number: str(number) * 2 for number in range(30)}
    assert 1 < server.most_threads <= 5


def test_a_server_in_trouble_is_asked_again():
    def answer(path, body, headers):
        return refusal(503, "busy") if len(server.requests) == 1 else completion("fine")

    with ScriptedServer(answer) as server:
        assert dict(ask(server.url, retries=1)) == {0: "fine"}
    assert len(server.requests) == 2


def test_what_came_before_a_failure_is_not_lost_and_nothing_more_is_sent():
    def answer(path, body, headers):
        number = int(body["prompt"])
        if number == 3:
            return refusal(400, "too long for me")
        return completion("fine")

    found = {}

    def collect(answers):
        for number, text in answers:
            found[number] = text

    with ScriptedServer(answer) as server, pytest.raises(ModelError, match="answers 400 .*too long for me"):
        collect(ask(server.url, [str(number) for number in range(200)], concurrency=1))
    assert {0, 1, 2} <= set(found)
    assert len(server.requests) < 200
    assert set(found) == {int(body["prompt"]) for body in server.requests} - {3}


def test_a_caller_that_stops_listening_stops_the_requests():
    with ScriptedServer(lambda path, body, headers: completion("fine")) as server:
        answers = ask(server.url, ["a"] * 300, concurrency=2)
        next(answers)
        answers.close()
        assert len(server.requests) < 300


def test_a_server_that_is_not_there():
    url = f"http://127.0.0.1:{free_port()}/v1"
    told = error(url)
    assert f"evaluation.judge: {url} with model 'm' cannot be reached" in told
    assert "start the server" in told


def test_a_server_that_takes_too_long():
    def answer(path, body, headers):
        time.sleep(0.5)
        return completion("late")

    with ScriptedServer(answer) as server:
        assert "gave no answer within 0.1 s; raise timeout_seconds" in error(server.url, timeout_seconds=0.1)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_without_the_key(status, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret\n")

    def answer(path, body, headers):
        assert headers["Authorization"] == "Bearer sk-very-secret"
        return refusal(status, "Incorrect API key provided: sk-very-secret")

    with ScriptedServer(answer) as server:
        told = error(server.url, api_key_env="MY_KEY")
    assert f"refuses the key ({status}); set MY_KEY to a valid one" in told
    assert "secret" not in told


def test_no_reason_of_a_server_shows_the_key(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with ScriptedServer(lambda *_: refusal(400, "x" * 170 + "sk-very-secret")) as server:
        told = error(server.url, api_key_env="MY_KEY")
    assert "answers 400" in told
    assert "sk-" not in told


@pytest.mark.parametrize(
    "content",
    [b"<html>", b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"text": 5}]}', b'{"choices": 3}', b"3", b'"a"'],
)
def test_anything_that_is_no_completion_is_refused(content):
    with ScriptedServer(lambda *_: (200, content)) as server:
        assert "answers with something that is no completion; url must lead to" in error(server.url)


def test_a_model_that_says_nothing_says_the_empty_text():
    with ScriptedServer(lambda *_: chat(None)) as server:
        assert dict(ask(server.url, [[{"role": "user", "content": "hello"}]])) == {0: ""}


def test_a_variable_that_is_not_set_or_holds_no_key_is_told_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="names the environment variable 'NO_SUCH_KEY', which is not set"):
        ask("http://localhost/v1", api_key_env="NO_SUCH_KEY")
    monkeypatch.setenv("NO_SUCH_KEY", "two\nlines")
    with pytest.raises(ConfigError, match="holds characters that no key has"):
        ask("http://localhost/v1", api_key_env="NO_SUCH_KEY")


def test_a_missing_client_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(
        ConfigError, match=r"evaluation.judge needs the package openai.*pip install 'prefopt\[judges\]'"
    ):
        ask("http://localhost/v1")


# A real server -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    """`transformers serve` with the small random model: its address."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(model_folder, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    # Without it, transformers serve writes greedily whatever temperature it is asked for.
    (folder / "generation_config.json").write_text(json.dumps({**settings, "do_sample": True}))
    with transformers_server(folder, tmp_path_factory.mktemp("hub")) as url:
        yield url, str(folder)


def test_transformers_serve_writes_what_the_model_writes(served, model_folder):
    """Greedily, to texts and to conversations: what generate gives here for the same tokens."""
    words = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    conversation = [{"role": "user", "content": "hello there"}]
    prompts = ["the sky is", conversation, "once upon a time"]
    rendered = words.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    ids = [words(text)["input_ids"] for text in ("the sky is", rendered, "once upon a time")]
    truth = [complete(model, words, [own], max_new_tokens=6)[0] for own in ids]
    settings = EndpointConfig(url=served[0], model=served[1])
    requests = [Request(prompt, 6, temperature=0.0) for prompt in prompts]
    found = dict(Endpoint(settings, "evaluation.policy_endpoint").answers(requests))
    assert [found[number] for number in range(3)] == truth
    assert all(truth)


def test_transformers_serve_draws_at_a_temperature(served):
    settings = EndpointConfig(url=served[0], model=served[1])
    requests = [Request("the sky is", 6, temperature=1.0, seed=seed) for seed in range(6)]
    found = dict(Endpoint(settings, "evaluation.policy_endpoint").answers(requests))
    assert len(set(found.values())) > 1


def test_a_random_model_that_judges_says_nothing_readable_and_that_is_kept(served, tmp_path):
    judge = ServedJudge(JudgeConfig(url=served[0], model=served[1], prompt="dialogue"), seed=0)
    path = tmp_path / "judgements.jsonl"
    found = win_rate(judge, compared(("fine", "well")), Judgements(path))
    assert found.unreadable == ("rows row 1",)
    assert found.rate is None
    assert json.loads(path.read_text())["reply"]
    assert win_rate(judge, compared(("fine", "well")), Judgements(path)).asked == 0

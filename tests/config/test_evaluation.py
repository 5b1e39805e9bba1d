from __future__ import annotations

import pytest

from prefopt.config import as_values, parse_config
from prefopt.errors import ConfigError

SERVED = {"url": "http://localhost:8000/v1", "model": "j", "prompt": "dialogue"}


def parsed(**evaluation):
    base = {"model": "m", "data": {"train": "t", "evaluation": 3}, "loss": "dpo", "output_dir": "o"}
    return parse_config({**base, "evaluation": evaluation})


@pytest.mark.parametrize("judge", ["length", {"name": "gsm8k"}, {"model": "org/reward"}, {**SERVED, "retries": 0}])
def test_a_judge_is_a_name_a_reward_model_or_a_served_model_and_reads_back_the_same(judge):
    config = parsed(judge=judge)
    assert parse_config(as_values(config)) == config
    assert (config.evaluation.judge.endpoint is not None) == (isinstance(judge, dict) and "url" in judge)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"judge": "lenght"}, "unknown judge 'lenght'; did you mean 'length'?"),
        ({"judge": {}}, "evaluation.judge says nobody"),
        ({"judge": {"name": "length", "model": "m"}}, "names both 'length' and 'm'"),
        ({"judge": {"name": "length", "retries": 1}}, "evaluation.judge.retries has no effect without"),
        ({"judge": {"model": "m", "prompt": "dialogue"}}, "evaluation.judge.prompt has no effect without"),
        ({"judge": {"url": "http://x/v1", "model": "m"}}, "'evaluation.judge.prompt' is missing"),
        ({"judge": {"url": "http://x/v1", "prompt": "dialogue"}}, "evaluation.judge says nobody"),
        ({"judge": {**SERVED, "url": "localhost:8000"}}, "evaluation.judge.url 'localhost:8000' is no address"),
        ({"judge": {**SERVED, "url": "https://me:key@x/v1"}}, "evaluation.judge.url holds a user or a key"),
        ({"judge": {**SERVED, "prompt": "dialog"}}, "evaluation.judge.prompt = 'dialog'"),
        (
            {"judge": {**SERVED, "api_key": "sk-1"}},
            "unknown key 'evaluation.judge.api_key'; did you mean 'api_key_env'?",
        ),
        (
            {"policy_endpoint": {"url": "ftp://x", "model": "m"}},
            "evaluation.policy_endpoint.url 'ftp://x' is no address",
        ),
        ({"policy_endpoint": {"url": "http://x"}}, "'evaluation.policy_endpoint.model' is missing"),
        ({"num_prompts": 0, "judge": "length"}, "evaluation.judge has no effect with evaluation.num_prompts 0"),
        ({"num_prompts": 0, "temperature": 0.5}, "evaluation.temperature has no effect with evaluation.num_prompts 0"),
        ({"temperature": 0.0, "top_p": 0.5}, "evaluation.top_p has no effect with evaluation.temperature 0"),
        ({"temperature": -1.0}, "evaluation.temperature = -1.0"),
        ({"against": "chosen"}, "evaluation.against has no effect without evaluation.judge"),
        ({"judge": "length", "against": "rejected"}, "evaluation.against = 'rejected'"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, told):
    with pytest.raises(ConfigError) as caught:
        parsed(**settings)
    assert told in str(caught.value)


def test_what_is_refused_shows_no_key():
    with pytest.raises(ConfigError) as caught:
        parsed(judge={**SERVED, "url": "https://me:sk-very-secret@x/v1"})
    assert "secret" not in str(caught.value)

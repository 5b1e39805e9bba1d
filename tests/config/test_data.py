from __future__ import annotations

import pytest

from prefopt.config import PartConfig, as_values, load_config, parse_config
from prefopt.config.data import DataConfig
from prefopt.errors import ConfigError


def parsed(**data):
    return parse_config({"model": "gpt2", "data": data, "loss": "dpo", "output_dir": "out"})


def test_a_mixture_is_a_list_of_sources_with_weights_and_reads_back():
    config = parsed(train=[{"source": "a.jsonl", "weight": 0.7}, "~/b.parquet"])
    assert isinstance(config.data.train, tuple)
    assert config.data.train[0] == PartConfig(source="a.jsonl", weight=0.7)
    assert config.data.train[1].weight == 1.0
    assert not config.data.train[1].source.startswith("~")
    assert parse_config(as_values(config)) == config


def test_a_part_of_a_mixture_can_be_overridden(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: gpt2\ndata: {train: [{source: a}, {source: b}]}\nloss: dpo\noutput_dir: out\n")
    assert load_config(path, ["data.train.1.weight=3"]).data.train[1].weight == 3.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": []}, "data.train = []: it must not be empty"),
        ({"train": 3}, "data.train = 3: it must be text"),
        ({"train": ""}, "data.train = '': it must not be empty"),
        ({"train": [{"weight": 1.0}]}, "config: 'data.train.0.source' is missing; it is required"),
        ({"train": [{"source": "a", "wieght": 1}]}, "unknown key 'data.train.0.wieght'; did you mean 'weight'?"),
        (
            {"train": ["a", {"source": "b", "weight": 0}]},
            "data.train.1.weight = 0: it must be greater than or equal to 0.000000001",
        ),
        ({"train": [{"source": "a", "weight": float("inf")}]}, "data.train.0.weight = inf: it must be a finite number"),
        ({"train": "a", "mixture_ends": "all"}, "data.mixture_ends has no effect where data.train is one source"),
        ({"train": "a", "mixture_ends": "last"}, "data.mixture_ends = 'last': it must be 'first' or 'all'"),
        ({"train": "a", "num_proc": 0}, "data.num_proc = 0: it must be greater than or equal to 1"),
        ({"train": "a", "shuffle_buffer": 9}, "data.shuffle_buffer has no effect without data.streaming"),
        ({"train": "a", "streaming": True, "num_proc": 2}, "data.num_proc has no effect with data.streaming"),
        ({"train": "a", "streaming": True, "cache_dir": "b"}, "data.cache_dir has no effect with data.streaming"),
    ],
)
def test_what_is_wrong_is_one_sentence(data, message):
    with pytest.raises(ConfigError) as raised:
        parsed(**data)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_held_out_rows_of_a_stream_may_be_kept_on_disk():
    data = parsed(train="a", streaming=True, evaluation="b.jsonl", num_proc=2, cache_dir="c").data
    assert (data.num_proc, data.cache_dir) == (2, "c")


def test_every_field_says_what_it_is():
    for section in (DataConfig, PartConfig):
        assert all(field.description for field in section.model_fields.values())

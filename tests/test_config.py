from __future__ import annotations

import json

import pydantic
import pytest

from prefopt.config import as_values, json_schema, load_config, parse_config, to_yaml
from prefopt.errors import ConfigError
from prefopt.section import Section

TEXT = """
model: gpt2
data: {train: pairs.jsonl, evaluation: held_out.jsonl}
loss: dpo
output_dir: runs/dpo
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(TEXT)
    return path


def message(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_short_forms_are_spelled_out(config_file):
    config = load_config(config_file)
    assert config.model.name == "gpt2"
    assert config.loss[0].name == "dpo"
    assert config.loss[0].hyperparameters == {}


def test_resolved_config_reads_back_as_itself(config_file):
    for overrides in ([], ["loss.beta=0.3"], ["loss=[{name: dpo, beta: 0.2}, {name: sft, weight: 0.2}]"]):
        config = load_config(config_file, overrides)
        assert parse_config(as_values(config)) == config
        config_file.with_name("resolved.yaml").write_text(to_yaml(config))
        assert load_config(config_file.with_name("resolved.yaml")) == config


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("loss=simpo", lambda config: config.loss[0].name == "simpo"),
        ("loss.beta=0.5", lambda config: config.loss[0].hyperparameters == {"beta": 0.5}),
        ("training.learning_rate=1e-6", lambda config: config.training.learning_rate == 1e-6),
        ("training.max_grad_norm=null", lambda config: config.training.max_grad_norm is None),
        ("data.evaluation=64", lambda config: config.data.evaluation == 64),
        ("model.dtype=bfloat16", lambda config: config.model.dtype == "bfloat16" and config.model.name == "gpt2"),
        ("plugins=[a.py]", lambda config: config.plugins[0].path == "a.py"),
        ("reference.model=gpt2-xl", lambda config: config.reference.model.name == "gpt2-xl"),
        ("data.train=a=b.jsonl", lambda config: config.data.train == "a=b.jsonl"),
    ],
)
def test_an_override_replaces_what_the_file_says(config_file, override, read):
    assert read(load_config(config_file, [override]))


def test_an_override_reaches_into_a_list(config_file):
    overrides = ["loss=[{name: dpo}, {name: sft}]", "loss.1.weight=0.5"]
    assert load_config(config_file, overrides).loss[1].weight == 0.5
    assert "'2' is no position in a list of 2" in message(config_file, overrides[0], "loss.2.weight=1")


def test_plugin_files_are_appended_to_the_configs_own(config_file):
    config = load_config(config_file, ["plugins=[a.py]"], ["b.py"])
    assert [plugin.path for plugin in config.plugins] == ["a.py", "b.py"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("los=dpo", ["run.yaml", "unknown key 'los'", "did you mean 'loss'"]),
        ("training.lerning_rate=1", ["'training.lerning_rate'", "did you mean 'learning_rate'"]),
        ("reference.model.nme=x", ["'reference.model.nme'", "did you mean 'name'"]),
        ("training.learning_rate=-1", ["training.learning_rate = -1", "greater than 0", "default 1e-06"]),
        ("training.batch_size=1.5", ["training.batch_size = 1.5", "whole number"]),
        ("training.epochs=true", ["training.epochs = True", "must be a number"]),
        ("training.optimizer=adam", ["'adam'", "'adamw', 'rmsprop', 'sgd', "]),
        ("training=3", ["training = 3", "mapping"]),
        ("model.dtype=fp16", ["'fp16'", "'float16'"]),
        ("loss=[]", ["loss = []", "must not be empty"]),
        ("loss={beta: 1}", ["'loss.0.name' is missing"]),
        ("loss=[{name: dpo, weight: -1}]", ["loss.0.weight = -1", "greater than 0"]),
        ("data.max_length=1", ["data.max_length = 1", "greater than or equal to 2"]),
        ("data.train=", ["data.train = None", "must be text"]),
        ("output_dir=", ["output_dir = None"]),
        ("reference={mode: none, model: gpt2}", ["reference.model has no effect", "'none'"]),
        ("training={scheduler: constant, warmup_steps: 3}", ["warmup_steps = 3", "'constant_with_warmup'"]),
        ("model.quantization=8bit", ["too few bits to train them; set model.adapter"]),
        ("data.evaluation=0", ["data.evaluation = 0", "greater than or equal to 1"]),
        ("plugins=[1]", ["plugins.0 = 1", "mapping"]),
        ("plugins=5", ["plugins = 5", "must be a list"]),
        ("model={{a: 1}: 2}", ["not valid YAML"]),
        ("training.seed=100000000000000", ["training.seed", "less than 4294967296"]),
        ("tracking={}", ["'tracking.trackers' is missing"]),
        ("tracking=tensorbord", ["tracking.trackers.0 = 'tensorbord'", "tensorboard"]),
        ("checkpoints.keep_best=loss", ["set evaluation.every_steps"]),
        ("reference.strict=true", ["reference.strict has no effect with reference.mode 'live'; use 'cached'"]),
        ("reference={mode: cached, update_steps: 9}", ["it needs reference.mode 'live', not 'cached'"]),
        ("reference.update_weight=0.5", ["no effect without reference.update_steps"]),
        ("reference.update_weight=0", ["reference.update_weight = 0", "greater than 0"]),
        ("reference.cache_dir=x", ["reference.cache_dir has no effect with reference.mode 'live'"]),
        ("reference.verify_rows=2", ["reference.verify_rows has no effect with reference.mode 'live'"]),
        ("reference={mode: cached, verify_rows: -1}", ["reference.verify_rows = -1", "greater than or equal to 0"]),
        ("model.adapter={path: a, r: 8}", ["model.adapter.r has no effect beside model.adapter.path"]),
        ("model.adapter=lora", ["model.adapter", "must be a mapping"]),
        ("nonsense", ["'nonsense'", "key.path=value"]),
        ("data.train.x=1", ["data.train is 'pairs.jsonl', not a mapping"]),
        ("training.seed={", ["not valid YAML"]),
    ],
)
def test_a_bad_setting_is_one_sentence(config_file, override, told):
    found = message(config_file, override)
    for words in told:
        assert words in found


@pytest.mark.parametrize("key", ["every_steps", "samples"])
def test_evaluation_settings_need_held_out_rows(config_file, key):
    assert "set data.evaluation" in message(config_file, "data.evaluation=null", f"evaluation.{key}=2")


def test_a_file_that_is_no_text_is_one_sentence(config_file):
    config_file.write_bytes("model: caf\u00e9".encode("latin-1"))
    assert "not UTF-8 text" in message(config_file)


def test_merge_keys_of_yaml_work(config_file):
    config_file.write_text("model: &base {name: gpt2}\nreference: {model: {<<: *base, dtype: bfloat16}}\n" + TEXT[13:])
    assert load_config(config_file).reference.model.name == "gpt2"


def test_a_home_folder_is_spelled_out(config_file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(config_file, ["output_dir=~/runs", "model=~/model", "data.train=~/pairs.jsonl"])
    assert (config.output_dir, config.model.name) == ("/home/someone/runs", "/home/someone/model")
    assert config.data.train == "/home/someone/pairs.jsonl"


def test_an_override_reaches_into_short_forms_of_a_list(config_file):
    config = load_config(config_file, ["loss=[dpo, sft]", "loss.1.weight=0.1"])
    assert [(part.name, part.weight) for part in config.loss] == [("dpo", 1.0), ("sft", 0.1)]


def test_a_missing_file_suggests_its_neighbour(config_file):
    assert "did you mean" in message(config_file.with_name("rum.yaml"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: gpt2\nmodel: gpt3\n", ["line 2", "'model' is given twice"]),
        ("model: [", ["not valid YAML"]),
        ("- gpt2", ["mapping"]),
        ("", ["mapping"]),
        ("model: !!python/object/apply:os.system [ls]", ["not valid YAML"]),
    ],
)
def test_a_file_that_is_no_config_is_one_sentence(config_file, text, told):
    config_file.write_text(text)
    found = message(config_file)
    for words in told:
        assert words in found


def test_a_config_is_immutable(config_file):
    with pytest.raises(pydantic.ValidationError):
        load_config(config_file).training.seed = 1


def test_every_field_is_documented():
    def undocumented(section):
        return [name for name, info in section.model_fields.items() if not info.description]

    assert {section.__name__: undocumented(section) for section in Section.__subclasses__()} == {
        section.__name__: [] for section in Section.__subclasses__()
    }


def test_schema_takes_short_forms_and_refuses_unknown_keys():
    schema = json_schema()
    assert {"type": "string"} in schema["properties"]["loss"]["anyOf"]
    assert {"type": "string"} in schema["properties"]["model"]["anyOf"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["TrainingConfig"]["properties"]["learning_rate"]["exclusiveMinimum"] == 0
    json.dumps(schema)

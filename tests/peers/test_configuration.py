"""No key of a config is dead, and switching the loss changes one of them."""

from __future__ import annotations

import difflib
import json
import re
import resource
import shutil
from pathlib import Path
from types import NoneType
from typing import get_args

import pytest
import torch
import transformers.utils.hub
import yaml
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from prefopt.cli.settings import read_settings
from prefopt.config import RunConfig, load_config
from prefopt.errors import PrefoptError
from prefopt.objective import build_loss
from prefopt.preparation import prepare
from prefopt.run import run
from prefopt.section import Section
from tests.models import tiny_model
from tests.peers.runs import REGISTRY, SHORT, Trained, train_once
from tests.peers.served import serving
from tests.peers.settings_cases import CASES, LORA, Seen
from tests.reference.test_identity import hub_copy

HINGE = Path(__file__).resolve().parents[2] / "plugins" / "example" / "prefopt_example.py"


def keys(section: type[Section], path: str = "") -> list[str]:
    """The path of every key that can be set, those of sections inside it included."""
    found = []
    for name, info in section.model_fields.items():
        inside = sections(info.annotation)
        if not inside or any(plain(part) for part in get_args(info.annotation)):
            found.append(path + name)
        for part in inside:
            found += keys(part, f"{path}{name}.")
    return found


def sections(annotation) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections(part)]


def plain(part) -> bool:
    return part not in (NoneType, Ellipsis) and not sections(part)


KEYS = keys(RunConfig)


@pytest.fixture(scope="module")
def places(model_folder, tmp_path_factory):
    """Where everything lies that a case may name."""
    folder = tmp_path_factory.mktemp("places")
    words = AutoTokenizer.from_pretrained(model_folder)
    tiny_model("llama", vocab_size=len(words), seed=3).save_pretrained(folder / "other")
    words.save_pretrained(folder / "other")
    reward_model(len(words)).save_pretrained(folder / "judge")
    words.save_pretrained(folder / "judge")
    found = {name: folder / name for name in ("other", "judge", "hub")} | {"model": model_folder, "plugin": HINGE}

    def rows(name, names, more=()):
        pairs = [{"prompt": f"About {own}.", "chosen": f" I like {own}", "rejected": f" {own} is bad"} for own in names]
        found[name] = folder / f"{name}.jsonl"
        found[name].write_text("".join(json.dumps(row) + "\n" for row in [*pairs, *more]))

    colours = "red green blue white black yellow brown grey pink".split()
    rows("train", colours)
    rows("bad", colours, [{"prompt": "x", "chosen": " a", "rejected": " a"}])
    rows("held_out", ["tea", "milk", "rain"])
    rows("others", ["stone", "iron", "wood", "sand"])
    adapted = {"model": {"name": str(model_folder), "adapter": {"r": 2, "target_modules": ["q_proj"]}}}
    training = {"training": {"max_steps": 3, "learning_rate": 0.5}, "output_dir": str(folder / "adapter")}
    found["adapter"] = train_once(found["train"], adapted, training).folder
    # Two revisions of one model, as the Hub's cache holds them.
    hub_copy(model_folder, found["hub"])
    second = found["hub"] / "models--org--name" / "snapshots" / ("1" * 40)
    shutil.copytree(folder / "other", second)
    (found["hub"] / "models--org--name" / "refs" / "second").write_text("1" * 40)
    return found


def reward_model(vocab_size):
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForSequenceClassification(LlamaConfig(vocab_size=vocab_size, num_labels=1, pad_token_id=0, **shape))


def nested(settings, places):
    """`a.b: value` as mappings in each other, with the places put in."""
    values = json.loads(json.dumps(SHORT))
    values["loss"] = {"name": values["loss"]}
    for path, value in settings.items():
        *above, last = path.split(".")
        place = values.get("plugins", [{}])[0] if above == ["plugins"] else values
        if above == ["plugins"]:
            values["plugins"] = [place]
            above = []
        for name in above:
            place = place.setdefault(name, {})
        text = json.dumps(value)
        for name, where in places.items():
            text = text.replace(f"{{{name}}}", str(where))
        place[last] = json.loads(text)
    return values


def written(config, loss, model, folder):
    """What `prefopt evaluate` says of another model than the one the config begins with."""
    from prefopt.evaluate import evaluate

    return evaluate(config, loss, model=str(model), output=str(folder / "evaluation.json"))


def observe(settings, places, folder, command="train"):
    """What the run of a config says and does; or the sentence it is refused with."""
    with serving() as asked:
        return observed(settings, {**places, "server": asked.url}, folder, command, asked)


def observed(settings, places, folder, command, asked):
    folder.mkdir(parents=True, exist_ok=True)
    common = {"model.name": "{model}", "data.train": "{train}", "output_dir": "{folder}/out"}
    values = nested({**common, **settings}, {**places, "folder": folder})
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    forwards, layers = [], []

    def count(module, _, inputs, __):
        if type(module).__name__.endswith("Attention"):
            layers.append(1)
        elif type(module).__name__.endswith("Model") and "input_ids" in inputs:
            forwards.append(inputs["input_ids"].numel())

    handle = register_module_forward_hook(count, with_kwargs=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    try:
        config, loss, _ = read_settings(str(folder / "run.yaml"), None, None)
        record = run(config, loss) if command == "train" else written(config, loss, places["other"], folder)
    except PrefoptError as error:
        return str(error)
    finally:
        handle.remove()
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > before
    return Seen(Trained(Path(config.output_dir), record, []), asked, tuple(forwards), len(layers), children)


PLAIN = {}


def known_or_seen(case, places, folders):
    """The run with `given` alone; many cases share one, but what a store holds is each case's own."""
    told = json.dumps([case.given, case.command], sort_keys=True)
    if told in PLAIN and "reference.mode" not in case.given:
        return PLAIN[told]
    PLAIN[told] = observe(case.given, places, folders.mktemp("plain"), case.command)
    return PLAIN[told]


@pytest.mark.parametrize("key", KEYS)
def test_15_setting_a_key_changes_what_a_run_does_or_is_refused(key, places, tmp_path, tmp_path_factory, monkeypatch):
    assert key in CASES, f"{key} is new: give it a case in settings_cases.py that shows what it changes"
    case = CASES[key]
    if "adapter" in key or LORA.items() <= case.given.items():
        pytest.importorskip("peft")
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(places["hub"]))
    if case.first is not None:
        observe(case.first, places, tmp_path / "first")
    monkeypatch.setenv("PREFOPT_PEERS_KEY", "secret")
    changed = observe({**case.given, case.key or key: case.value}, places, tmp_path / "changed", case.command)
    plain = known_or_seen(case, places, tmp_path_factory)
    for outcome in (changed, plain):
        if isinstance(outcome, str):
            assert case.told is not None, outcome
            assert re.search(case.told, outcome), outcome
    one, other = (found if isinstance(found, str) else case.sees(found) for found in (changed, plain))
    assert one != other, f"{key} = {case.value!r} changes nothing"


def test_15_no_case_is_left_of_a_key_that_is_gone():
    assert not set(CASES) - set(KEYS)


CONFIG = """\
model: {model}
data: {{train: {rows}, evaluation: 3, max_length: 64}}
loss: {loss}
training: {{batch_size: 6, learning_rate: 1.0e-3, max_steps: 1, tokens_per_microbatch: 512}}
output_dir: {output}
"""


def raw_rows(kind, pair_rows):
    """Rows that every loss reads which reads rows of that kind."""
    if kind == "pairs":
        return [{**row, "chosen_score": 2.0, "rejected_score": 1.0} for row in pair_rows]
    return [
        {"prompt": row["prompt"], "completions": [row["chosen"], row["rejected"], " so"], "scores": [3.0, 2.0, 1.0]}
        for row in pair_rows
    ]


def kind_for(name):
    return "rankings" if REGISTRY.losses[name].needs.rows == {"rankings"} else "pairs"


TELLING = sorted({(str(own.needs), kind_for(name)): name for name, own in REGISTRY.losses.items()}.values())


@pytest.mark.parametrize("kind", ["pairs", "rankings"])
def test_23_switching_the_loss_changes_one_line_of_the_config(write_rows, pair_rows, model_folder, tmp_path, kind):
    """From any loss to any other on the same rows; each is built, and finds in the rows what it needs."""
    rows = write_rows(raw_rows(kind, pair_rows))
    words = AutoTokenizer.from_pretrained(model_folder)
    before, kept = None, 0
    for name in sorted(REGISTRY.losses):
        if kind == "pairs" and kind_for(name) == "rankings":
            continue
        if kind == "rankings" and not {"rankings", "pairs"} & set(REGISTRY.losses[name].needs.rows):
            continue
        if kind == "rankings" and "demonstrations" in REGISTRY.losses[name].needs.rows:
            continue
        text = CONFIG.format(model=model_folder, rows=rows, loss=name, output=tmp_path / "out")
        if before is not None:
            changed = [line for line in difflib.ndiff(before.splitlines(), text.splitlines()) if line[0] in "+-"]
            assert [line.split(":")[0] for line in changed] == ["- loss", "+ loss"]
        before = text
        (tmp_path / "run.yaml").write_text(text)
        config = load_config(tmp_path / "run.yaml")
        loss = build_loss(config, REGISTRY)
        assert (type(loss), loss.name) == (REGISTRY.losses[name], name)
        kept += len(prepare(config, loss, words, str(rows)).train) == 6
    assert kept >= (40 if kind == "pairs" else 30)


@pytest.mark.parametrize("name", TELLING)
def test_23_one_loss_of_each_set_of_needs_trains_by_its_name_alone(
    prefopt, write_rows, pair_rows, model_folder, tmp_path, name
):
    rows = write_rows(raw_rows(kind_for(name), pair_rows))
    text = CONFIG.format(model=model_folder, rows=rows, loss=name, output=tmp_path / "out")
    (tmp_path / "run.yaml").write_text(text)
    outcome = prefopt("train", tmp_path / "run.yaml")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["loss"] == name

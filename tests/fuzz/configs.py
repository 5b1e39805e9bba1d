"""Command lines and configs: right ones, and right ones with one thing wrong, which must then be refused."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from prefopt import load_registry
from tests.fuzz.commands import COMMANDS, Outcome, check_manners, check_trained, check_untrained
from tests.fuzz.fields import JUNK, Field, fields_of, fitting, hyperparameters_of, misfits
from tests.fuzz.grounds import filled_in

LOSSES = load_registry().losses
FIELDS = list(fields_of())

# What decides how long a run takes, and what only several machines or a server could show.
_SMALL: dict[str, list[Any]] = {
    "training.max_steps": [1, 2],
    "training.epochs": [0.001, 0.5, 1, 2.0],
    "training.batch_size": [1, 2, 4, 2**62],
    "data.num_proc": [1, 1, 1, 2],
    "data.evaluation": [None, 1, 3, 8, 9, 2**62, "<ground>/pairs.jsonl", "<ground>/pairs.jsonl[:2]"],
    "evaluation.samples": [0, 1, 2, 100],
    "evaluation.max_new_tokens": [1, 2, 3],
    "evaluation.num_prompts": [0, 1, 2],
    "evaluation.policy_endpoint.retries": [0],
    "evaluation.policy_endpoint.concurrency": [1, 2],
    "evaluation.judge.retries": [0],
    "evaluation.judge.concurrency": [1, 2],
    "reference.verify_rows": [0, 1, 2, 2**62],
    "data.shuffle_buffer": [1, 2, 2**62],
}
# Texts that name something.
_NAMING: dict[str, list[Any]] = {
    "model": ["<ground>/model", {"name": "<ground>/model"}],
    "model.name": ["<ground>/model"],
    "reference.model": ["<ground>/model", {"name": "<ground>/model", "dtype": "bfloat16"}],
    "reference.model.name": ["<ground>/model"],
    "model.adapter": [
        {"r": 2},
        {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]},
        {"peft_type": "ia3"},
        {"r": 2, "merge": True},
        {"r": 2, "init_lora_weights": False},
    ],
    "reference.model.adapter": [{"r": 2}],
    "data.train": [
        "<ground>/pairs.jsonl[:4]",
        "<ground>/pairs.jsonl[-3:]",
        ["<ground>/pairs.jsonl[:4]", {"source": "<ground>/pairs.jsonl[4:]", "weight": 2}],
        [{"source": "<ground>/pairs.jsonl"}],
    ],
    "data.train.0.source": ["<ground>/pairs.jsonl"],
    "data.cache_dir": ["<here>/rows"],
    "reference.cache_dir": ["<here>/store"],
    "reference": [
        {"mode": "cached"},
        {"mode": "live", "update_steps": 1, "update_weight": 0.5},
        {"mode": "cached", "strict": True},
    ],
    "loss.0.name": sorted(LOSSES),
    "tracking": ["tensorboard", ["tensorboard"], {"trackers": ["tensorboard"], "project": "p"}],
    "tracking.trackers": [["tensorboard"], ["tensorboard", "tensorboard"]],
    "plugins": [["<ground>/plugins/hinge.py"], [{"path": "<ground>/plugins/hinge.py"}]],
    "plugins.0.path": ["<ground>/plugins/hinge.py"],
    "output_dir": ["<here>/out", "<here>/out/deeper/still"],
    "evaluation.judge": ["length", {"name": "length"}],
    "evaluation.policy_endpoint": [{"url": "http://127.0.0.1:9/v1", "model": "m", "retries": 0}],
    "evaluation.policy_endpoint.url": ["http://127.0.0.1:9/v1"],
    "evaluation.judge.url": ["http://127.0.0.1:9/v1"],
}


@dataclass(frozen=True)
class Case:
    """One command line with its config file.

    Attributes:
        values: what the file says, before `<ground>` and `<here>` are filled in.
        overrides, flags: the rest of the command line.
        spoil: makes of the file's text what stands in the file.
        refused: whether the exit code must be 1.
        words: what the error must name, one of them.
        before: is done in the case's folder first.
    """

    values: Any
    command: str = "train"
    overrides: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    spoil: Callable[[bytes], bytes] | None = None
    refused: bool = False
    words: tuple[str, ...] = ()
    what: str = "right"
    before: Callable[[Path], None] | None = None
    codes: tuple[int, ...] = field(default=(0, 1))


def play(case: Case, ground: Path, run: Callable[..., Outcome]) -> Outcome:
    """Run a case and hold what came of it against what must."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        values = filled_in(case.values, ground=ground, here=here)
        text = yaml.safe_dump(values, allow_unicode=False, sort_keys=False).encode()
        path = here / "run.yaml"
        path.write_bytes(case.spoil(text) if case.spoil else text)
        if case.before:
            case.before(here)
        arguments = [*filled_in([*case.overrides, *case.flags], ground=ground, here=here)]
        outcome = run(case.command, str(path), *arguments)
        check_manners(outcome)
        out = here / "out"
        assert outcome.code in case.codes, (outcome.code, outcome.err)
        if case.refused:
            assert outcome.code == 1, f"was not refused ({case.what}): {outcome.err}"
            error = outcome.error.replace(folder, "")
            words = (*case.words, "whole number of")  # one that no counter holds is refused with its line
            assert not case.words or any(word in error for word in words), (case.words, outcome.error)
        if outcome.code == 0 and case.command == "train":
            deeper = values.get("output_dir") if isinstance(values, dict) else None
            check_trained(Path(deeper) if isinstance(deeper, str) and not case.overrides else out)
        elif outcome.code == 1 and case.before is None:
            check_untrained(out)
        return outcome


def _base() -> dict[str, Any]:
    return {
        "model": "<ground>/model",
        "data": {"train": "<ground>/pairs.jsonl", "max_length": 64},
        "loss": "dpo",
        "training": {"batch_size": 4, "learning_rate": 1e-3, "max_steps": 1, "tokens_per_microbatch": 256},
        "output_dir": "<here>/out",
    }


# What a section or a list begins with where a key inside it is set: all that it requires.
_BEGUN: dict[str, Any] = {
    "model.adapter": {"r": 2},
    "reference.model": {"name": "<ground>/model"},
    "reference.model.adapter": {"r": 2},
    "evaluation.policy_endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m", "retries": 0},
    "evaluation.judge": {"name": "length"},
    "tracking": {"trackers": ["tensorboard"]},
    "plugins": [{"path": "<ground>/plugins/hinge.py"}],
}
_SHORT = {
    "model": "name",
    "judge": "name",
    "tracking": "trackers",
    "loss": "name",
    "train": "source",
    "plugins": "path",
}


def _put(values: dict[str, Any], path: tuple[str | int, ...], value: Any) -> None:
    """Set a key, spelling out what stands in short form on the way."""
    place: Any = values
    for depth, (key, following) in enumerate(pairwise(path), 1):
        below = place[key] if isinstance(place, list) else place.get(key)
        if not isinstance(below, dict | list) and below is not None:
            below = {_SHORT[str(key)]: below}
        if isinstance(below, list) and key == "tracking":
            below = {"trackers": below}
        if below is None:
            below = copy.deepcopy(_BEGUN.get(".".join(map(str, path[:depth])), {}))
        if isinstance(following, int):
            parts = below if isinstance(below, list) else [below]
            below = [part if isinstance(part, dict) else {_SHORT[str(key)]: part} for part in parts]
        place[key] = below
        place = below
    place[path[-1]] = value


def _right(field: Field) -> st.SearchStrategy[Any]:
    known = _SMALL.get(repr(field)) or _NAMING.get(repr(field))
    return st.sampled_from(known).map(copy.deepcopy) if known else fitting(field)


_SETTABLE = [one for one in FIELDS if repr(one) in _SMALL or repr(one) in _NAMING or not fitting(one).is_empty]


@st.composite
def right(draw: st.DrawFn) -> Case:
    """Settings that fit, one by one; not all go together."""
    values = _base()
    if draw(st.booleans()):
        values["loss"] = draw(st.sampled_from(sorted(LOSSES)))
        rows = LOSSES[values["loss"]].needs.rows
        if not {"pairs", "demonstrations"} & set(rows):
            values["data"]["train"] = f"<ground>/{draw(st.sampled_from(sorted(rows)))}.jsonl"
    for one in draw(st.lists(st.sampled_from(_SETTABLE), max_size=3, unique_by=repr)):
        _put(values, one.path, draw(_right(one)))
    return Case(values, codes=(0, 1))


@st.composite
def misfitting(draw: st.DrawFn) -> Case:
    """A value of the wrong type, or out of its range."""
    case = draw(right())
    one = draw(st.sampled_from(FIELDS))
    value = draw(misfits(one))
    if one.path[-1] == "num_proc" and value is None:  # never many processes
        value = 0
    values = copy.deepcopy(case.values)
    _put(values, one.path, value)
    return replace(case, values=values, refused=True, what=f"{one!r} = {value!r}")


@st.composite
def misfitting_alone(draw: st.DrawFn) -> Case:
    """The same with nothing else unusual, so that the error must name this key."""
    one = draw(st.sampled_from(FIELDS))
    value = draw(misfits(one))
    values = _base()
    _put(values, one.path, value)
    names = [str(key) for key in one.path if isinstance(key, str)]
    return Case(values, refused=True, words=(names[-1], ".".join(names)), what=f"{one!r} = {value!r}")


@st.composite
def unknown_key(draw: st.DrawFn) -> Case:
    """A key that no section knows, somewhere."""
    values = _base()
    sections = [
        (),
        ("data",),
        ("reference",),
        ("training",),
        ("evaluation",),
        ("checkpoints",),
        ("tracking",),
        ("loss", 0),
    ]
    section = draw(
        st.sampled_from([*sections, ("model",), ("reference", "model"), ("evaluation", "judge"), ("plugins", 0)])
    )
    known = {one.path[-1] for one in FIELDS}
    key = draw(
        st.one_of(st.text(min_size=1, max_size=8), st.sampled_from(["lerning_rate", "betta", "a\nb", "\0", "\ud800"]))
    )
    if key in known or key in LOSSES["dpo"].model_fields:
        key += "_"
    _put(values, (*section, key), draw(JUNK))
    return Case(values, refused=True, what=f"unknown {section} {key!r}")


@st.composite
def hyperparameter(draw: st.DrawFn) -> Case:
    """A loss with a hyper-parameter of its own that does not fit, or with another's."""
    name = draw(st.sampled_from(sorted(LOSSES)))
    values = _base()
    rows = LOSSES[name].needs.rows
    if not {"pairs", "demonstrations"} & set(rows):
        values["data"]["train"] = f"<ground>/{min(rows)}.jsonl"
    own = hyperparameters_of(LOSSES[name])
    if own and draw(st.booleans()):
        one = draw(st.sampled_from(own))
        value = draw(misfits(one))
        values["loss"] = {"name": name, one.path[-1]: value}
        return Case(values, refused=True, words=(str(one.path[-1]),), what=f"{name} {one!r} = {value!r}")
    others = sorted({key for loss in LOSSES.values() for key in loss.model_fields} - set(LOSSES[name].model_fields))
    key = draw(st.sampled_from(others))
    values["loss"] = {"name": name, key: draw(JUNK)}
    return Case(values, refused=True, words=(key,), what=f"{name} takes no {key}")


_BAD_LOSSES: list[Any] = [
    "dpoo",
    "DPO",
    "",
    " dpo",
    "dpo\n",
    "ppo",
    [],
    {},
    [[]],
    [None],
    7,
    True,
    {"beta": 0.1},
    {"name": None},
    {"name": ["dpo"]},
    ["dpo", "kto"],
    ["dpo", "dpoo"],
    [{"name": "dpo", "weight": 0}],
    [{"name": "dpo", "weight": -1}, "sft"],
    [{"name": "dpo", "weight": "1"}],
    {"name": "dpo", "weight": float("nan")},
    {"dpo": {"beta": 0.1}},
    "\0",
    "\ud800",
    "pl_dpo",
    ["sft", "kto"],
    {"name": "dpo", "\ud800": 1},
]
_BAD_ADAPTERS: list[Any] = [
    {"r": 0},
    {"r": -1},
    {"r": "x"},
    {"r": 2, "target_modules": ["nope"]},
    {"r": 2, "target_modules": 7},
    {"peft_type": "nonsense"},
    {"peft_type": 3},
    {"peft_type": None},
    {"rr": 2},
    {"path": "<ground>/a_folder"},
    {"path": "<ground>/missing"},
    {"path": "<ground>/a_file"},
    {"path": "<ground>/model"},
    {"r": 2, "path": "<ground>/model"},
    {1: 2},
    {"r": 2, "lora_dropout": "much"},
    {"r": 2, "lora_dropout": 7.5},
    {"r": True},
    {"r": 1e9},
    {"peft_type": "prompt_tuning", "num_virtual_tokens": 3},
    {"r": 2, "init_lora_weights": "nonsense"},
    {"r": 2, "bias": "some"},
    {"r": 2, "layers_to_transform": [99]},
    {"r": [2]},
    {"r": 2, "rank_pattern": 3},
]
_NOWHERE = [
    "<ground>/missing",
    "<ground>/a_file",
    "<ground>/a_folder",
    "",
    "\0",
    "a\0b",
    "x" * 300,
    "org/nowhere",
    "/dev/null",
    "<ground>/pairs.jsonl/below",
    "\ud800",
    "a\nb",
    "~",
    "..",
    "https://example.invalid/x",
]


@st.composite
def wrong_place(draw: st.DrawFn) -> Case:
    """A model, rows, a loss, an adapter, a plugin or a folder that is not there, or is something else."""
    values = _base()
    what = draw(st.sampled_from(["model", "train", "evaluation", "loss", "adapter", "plugins", "output", "reference"]))
    if what == "loss":
        value = draw(st.sampled_from(_BAD_LOSSES))
        values["loss"] = value
    elif what == "adapter":
        value = draw(st.sampled_from(_BAD_ADAPTERS))
        values["model"] = {"name": "<ground>/model", "adapter": value}
    elif what == "model":
        value = draw(
            st.sampled_from([*_NOWHERE, "<ground>/not_a_model", "<ground>/broken_model", "<ground>/pairs.jsonl"])
        )
        values["model"] = value
    elif what == "reference":
        value = draw(st.sampled_from([*_NOWHERE, "<ground>/not_a_model"]))
        values["reference"] = {"model": value, "mode": draw(st.sampled_from(["live", "cached"]))}
    elif what == "plugins":
        files = ["raises", "exits", "syntax", "latin", "misspelt", "takes_dpo", "missing"]
        value = draw(st.sampled_from([*(f"<ground>/plugins/{name}.py" for name in files), *_NOWHERE]))
        values["plugins"] = [value]
        if draw(st.booleans()):
            return Case(_base(), flags=("--plugin", value.replace("\0", "")), refused=True, what=f"--plugin {value!r}")
    elif what == "output":
        value = draw(
            st.sampled_from(
                [
                    "<ground>/a_file",
                    "<ground>/a_file/below",
                    "<ground>",
                    "/dev/null",
                    "/proc/x/y",
                    "",
                    "\0",
                    "a\0b",
                    "/" + "x" * 300,
                    "\ud800/x",
                    "/dev/null/x",
                    "<ground>/model",
                    "/",
                ]
            )
        )
        values["output_dir"] = value
    else:
        slices = [
            "<ground>/pairs.jsonl[9:]",
            "<ground>/pairs.jsonl[x]",
            "<ground>/pairs.jsonl[:",
            "<ground>/pairs.jsonl[0:0]",
            f"<ground>/pairs.jsonl[:{10**30}]",
            "<ground>/pairs.jsonl[:²]",
        ]
        files = [
            "<ground>/empty.jsonl",
            "<ground>/binary.parquet",
            "<ground>/plugins/hinge.py",
            "<ground>/labels.jsonl[5:1]",
        ]
        value = draw(st.sampled_from([*_NOWHERE, *slices, *files, "<ground>/pairs.jsonl:train"]))
        values["data"][what] = value
    return Case(values, refused=True, what=f"{what} = {value!r}")


_OVERRIDES = [
    "",
    "=",
    "a",
    "=1",
    "training",
    "training.",
    ".batch_size=1",
    "training..batch_size=2",
    "training.batch_size",
    "training.batch_size=",
    "training.batch_size=[",
    "training.batch_size=x",
    "training.batch_size=1e3",
    "a.b.c.d=1",
    "loss.beta=x",
    "loss.0.beta=-1",
    "loss.7.name=dpo",
    "loss.-1.name=dpo",
    "loss.name.x=1",
    "model.name.x.y=1",
    "training.learning_rate=nan",
    "training.learning_rate=.inf",
    "training.max_grad_norm=0",
    "data=7",
    "training=null",
    "data.train.0=x",
    "training.batch_size=&a [*a]",
    "loss=!!python/object:os.system {}",
    "training.seed=0x1ffffffff",
    "output_dir=",
    "model=",
    "training.batch_size=1_0x",
    "loss=[dpo, kto]",
    "=training.seed=1",
    "training.batch_size=\0",
    "training.batch_size=\t",
    "plugins=7",
    "plugins.0=x",
    "plugins={}",
    "lossy=1",
    "-x=1",
    "training.batch_size=\ud800",
    "training.\u202eseed=1",
    "training.seed=1 # one\n2",
    "training.batch_size==4",
    "loss.0.x=1",
    "loss.²=1",
    "data.train.²=x",
]


@st.composite
def wrong_override(draw: st.DrawFn) -> Case:
    """A setting on the command line that is malformed, misplaced or out of range."""
    override = draw(st.sampled_from(_OVERRIDES))
    values = _base()
    if draw(st.booleans()):
        values["loss"] = [{"name": "dpo", "weight": 1.0}, {"name": "sft", "weight": 0.2}]
    usage = override.startswith("-")
    codes = (2,) if usage else (1,)
    return Case(values, overrides=(override,), refused=not usage, what=f"override {override!r}", codes=codes)


def _appended(text: bytes) -> Callable[[bytes], bytes]:
    return lambda before: before + text


def _instead(text: bytes) -> Callable[[bytes], bytes]:
    return lambda _: text


_SPOILT: dict[str, tuple[Callable[[bytes], bytes], bool]] = {
    "a key twice": (_appended(b"loss: ipo\n"), True),
    "a key twice within": (_appended(b"checkpoints: {keep_last: 1, keep_last: 2}\n"), True),
    "tab": (_appended(b"\tevaluation: {}\n"), True),
    "unfinished": (_appended(b"evaluation: {samples: [1\n"), True),
    "cut off": (lambda text: text[: len(text) // 2] + b" {", True),
    "not UTF-8": (_appended(b"# caf\xe9\n"), True),
    "UTF-16": (lambda text: text.decode().encode("utf-16"), True),
    "NUL": (_appended(b"tracking: '\0'\n"), True),
    "empty": (_instead(b""), True),
    "null": (_instead(b"null\n"), True),
    "a list": (_instead(b"- a\n- b\n"), True),
    "a word": (_instead(b"dpo\n"), True),
    "a number": (_instead(b"1\n"), True),
    "comments alone": (_instead(b"# nothing\n"), True),
    "two documents": (_appended(b"---\nloss: ipo\n"), True),
    "itself within": (_appended(b"evaluation: &a {judge: *a}\n"), True),
    "itself within an adapter": (lambda text: b"model: &a {name: x, adapter: *a}\n" + text.split(b"\n", 1)[1], True),
    "itself within a loss": (lambda text: text.replace(b"loss: dpo", b"loss: &a {name: dpo, beta: *a}"), True),
    "itself in a list": (lambda text: text.replace(b"loss: dpo", b"loss: &a [*a]"), True),
    "an alias of nothing": (_appended(b"evaluation: *nothing\n"), True),
    "a python object": (_appended(b"evaluation: !!python/object/apply:os.system ['true']\n"), True),
    "an unknown tag": (_appended(b"evaluation: !what {}\n"), True),
    "a number for a key": (_appended(b"7: 8\n"), True),
    "null for a key": (_appended(b"~: 8\n"), True),
    "a date for a key": (_appended(b"2026-01-01: 8\n"), True),
    "a list for a key": (_appended(b"? [1, 2]\n: 8\n"), True),
    "a mapping for a key": (_appended(b"? {a: 1}\n: 8\n"), True),
    "a number for an inner key": (_appended(b"evaluation: {7: 8}\n"), True),
    "no for false": (_appended(b"checkpoints: {keep_last: no}\n"), True),
    "a date for a name": (lambda text: text.replace(b"loss: dpo", b"loss: 2026-11-29"), True),
    "an impossible date": (lambda text: text.replace(b"loss: dpo", b"loss: 2026-99-99"), True),
    "an impossible time": (lambda text: text.replace(b"loss: dpo", b"loss: 2026-11-29 99:99:99"), True),
    "bad base64": (_appended(b"tracking: !!binary '*'\n"), True),
    "a merge of no mapping": (_appended(b"evaluation: {<<: 7}\n"), True),
    "deeply nested": (_appended(b"evaluation: " + b"[" * 3000 + b"]" * 3000 + b"\n"), True),
    "a laugh": (
        lambda text: (
            b"x: &a [z, z, z, z, z, z, z, z, z]\n"
            + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(8))
            + text.replace(b"loss: dpo", b"loss: *i")
        ),
        True,
    ),
    "a laugh within": (
        _appended(
            b"checkpoints: {keep_last: [&a [z, z, z, z, z, z, z, z, z]"
            + b"".join(b", &%c [%s]" % (98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(8))
            + b"]}\n"
        ),
        True,
    ),
    "a bool tag": (_appended(b"checkpoints: {every_steps: !!bool x}\n"), True),
    "a date tag": (_appended(b"checkpoints: {every_steps: !!timestamp x}\n"), True),
    "a null tag": (_appended(b"checkpoints: {every_steps: !!null x}\n"), False),
    "a long text for a number": (_appended(b"checkpoints: {keep_last: " + b"x" * 100_000 + b"}\n"), True),
    "a huge number": (_appended(b"checkpoints: {keep_last: " + b"9" * 5000 + b"}\n"), True),
    "a huge float": (_appended(b"checkpoints: {every_minutes: 1e999}\n"), True),
    "an integer tag": (_appended(b"checkpoints: {every_steps: !!int x}\n"), True),
    "a float tag": (_appended(b"checkpoints: {every_minutes: !!float x}\n"), True),
    "a bad escape": (_appended(b'tracking: "\\q"\n'), True),
    "a huge escape": (_appended(b'tracking: "\\UFFFFFFFF"\n'), True),
    "a BOM": (lambda text: b"\xef\xbb\xbf" + text, False),
    "Windows line ends": (lambda text: text.replace(b"\n", b"\r\n"), False),
    "a comment": (_appended(b"# fin"), False),
    "an end mark": (_appended(b"...\n"), False),
    "a merge": (_appended(b"checkpoints: {<<: {keep_last: 1}}\n"), False),
    "an underscore": (_appended(b"checkpoints: {every_steps: 1_000}\n"), False),
}


@st.composite
def spoilt(draw: st.DrawFn) -> Case:
    """A file that is not the YAML one means, or an unusual way to write it."""
    what = draw(st.sampled_from(sorted(_SPOILT)))
    change, refused = _SPOILT[what]
    codes = (1,) if refused else (0,)
    return Case(_base(), spoil=change, refused=refused, what=what, codes=codes)


def _earlier_run(here: Path) -> None:
    out = here / "out"
    out.mkdir()
    (out / "config.resolved.yaml").write_text("loss: {name: ipo}\n")
    (out / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (out / "run.json").write_text('{"num_steps": 1}\n')


def _foreign(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "thesis.tex").write_text("mine\n")


def _damaged(config: bytes, run: bytes = b"") -> Callable[[Path], None]:
    def write(here: Path) -> None:
        (here / "out").mkdir()
        (here / "out" / "config.resolved.yaml").write_bytes(config)
        if run:
            (here / "out" / "run.json").write_bytes(run)

    return write


_FOLDERS: dict[str, Callable[[Path], None] | None] = {
    "nothing": None,
    "an earlier run": _earlier_run,
    "something else": _foreign,
    "an empty folder": lambda here: (here / "out").mkdir(),
    "a run cut off at once": _damaged(b""),
    "a config that is none": _damaged(b"{", b"{}"),
    "a config not in UTF-8": _damaged(b"\xff", b"{}"),
    "a run.json that is none": _damaged(b"loss: dpo\n", b"{"),
    "a file": lambda here: (here / "out").write_text("x"),
    "a link to nothing": lambda here: (here / "out").symlink_to(here / "nowhere" / "x"),
}


@st.composite
def folder(draw: st.DrawFn) -> Case:
    """Every state of output_dir with every combination of --overwrite and --resume."""
    what = draw(st.sampled_from(sorted(_FOLDERS)))
    flags = draw(
        st.sampled_from(
            [(), ("--overwrite",), ("--resume",), ("--overwrite", "--resume"), ("--resum",), ("--seed", "1")]
        )
    )
    usage = not {"--resum", "--seed"}.isdisjoint(flags)
    free = what in ("nothing", "an empty folder")
    replaced = what not in ("something else", "a file", "a link to nothing") and flags == ("--overwrite",)
    refused = not usage and not replaced and (not free or len(flags) == 2)
    if what == "a link to nothing" and flags != ("--overwrite", "--resume"):
        refused = False  # a link whose target can be made is as good as a folder
    codes = (2,) if usage else (0, 1)
    return Case(_base(), flags=flags, before=_FOLDERS[what], refused=refused, what=f"{what} with {flags}", codes=codes)


@st.composite
def other_command(draw: st.DrawFn) -> Case:
    """A config, right or wrong, given to the commands beside `train` that read one."""
    command = draw(st.sampled_from(sorted(COMMANDS & {"precompute", "evaluate", "plan"})))
    case = draw(
        st.one_of(
            right(),
            right(),
            misfitting_alone(),
            unknown_key(),
            wrong_place().filter(lambda one: "output" not in one.what),
        )
    )
    values = copy.deepcopy(case.values)
    if case.what == "right" and isinstance(values["data"], dict):
        values["data"].setdefault("evaluation", 3)
        if command == "precompute":
            values["reference"] = {"mode": "cached", "cache_dir": "<here>/store"}
    # What only training reads may be wrong without being read; the config as such may not.
    unread = ("model =", "evaluation =", "reference =", "adapter =", "train =", "loss =")
    refused = case.refused and not any(word in case.what for word in unread)
    flags = (
        ("--model", "<ground>/model", "--output", "<here>/found.json")
        if command == "evaluate" and draw(st.booleans())
        else ()
    )
    return replace(case, command=command, values=values, flags=(*case.flags, *flags), refused=refused)


CASES = {
    "right": right(),
    "misfitting": misfitting(),
    "misfitting, named": misfitting_alone(),
    "unknown key": unknown_key(),
    "hyper-parameter": hyperparameter(),
    "wrong place": wrong_place(),
    "override": wrong_override(),
    "YAML": spoilt(),
    "folder": folder(),
    "other command": other_command(),
}


def cases() -> st.SearchStrategy[Case]:
    """Any of them; right ones most often, since what they reach lies deepest."""
    return st.sampled_from(["right"] * 8 + sorted(CASES)).flatmap(CASES.__getitem__)

"""Files of rows of which it is known, by how they were made, which ones can be trained on."""

from __future__ import annotations

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
import yaml
from hypothesis import strategies as st

from tests.fuzz.commands import Outcome, check_manners, check_trained, check_untrained

LOSS = {"pairs": "dpo", "labels": "kto", "rankings": "infonca_list", "demonstrations": "sft"}
_MAX_LENGTH = 256

# What DESIGN section 6 and the README's table of columns call a row is written here once more, and nowhere read from
# the code: a good row is made good, and a bad one is a good one with one thing broken that has a name.

Verdict = Literal["good", "bad", "wild"]


@dataclass(frozen=True)
class Line:
    """One row of a file: its bytes, whether it can be trained on, and what was done to it. wild: anything goes."""

    content: bytes
    verdict: Verdict
    what: str


@dataclass(frozen=True)
class File:
    """A file of rows of one kind."""

    kind: str
    ending: str
    lines: tuple[Line, ...]

    def write(self, folder: Path) -> Path:
        path = folder / f"rows.{self.ending}"
        if self.ending == "parquet":
            rows = [json.loads(line.content) for line in self.lines]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, _schema(rows)), path)
        elif self.ending == "json":
            path.write_bytes(b"[" + b",\n".join(line.content for line in self.lines) + b"]")
        else:
            path.write_bytes(b"".join(line.content + b"\n" for line in self.lines))
        return path


def play(file: File, model: Path, run: Callable[..., Outcome]) -> Counter[str]:
    """Train on a file twice, skipping bad rows and stopping at the first; what must come of both.

    Returns:
        How many rows there were of each verdict.
    """
    bad = [number for number, line in enumerate(file.lines, 1) if line.verdict == "bad"]
    good = [number for number, line in enumerate(file.lines, 1) if line.verdict == "good"]
    wild = [number for number, line in enumerate(file.lines, 1) if line.verdict == "wild"]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        path = file.write(here)
        config = here / "run.yaml"
        settings = {
            "model": str(model),
            "data": {"train": str(path), "max_length": _MAX_LENGTH},
            "loss": LOSS[file.kind],
            "training": {"batch_size": 10_000, "max_steps": 1, "tokens_per_microbatch": 8192},
        }
        config.write_text(yaml.safe_dump(settings))
        skipped, stopped = here / "skipped", here / "stopped"
        outcome = run("train", str(config), "data.on_bad_row=skip", f"output_dir={skipped}")
        check_manners(outcome)
        if not good:
            assert outcome.code == 1 or wild, outcome.err
        elif not wild:
            assert outcome.code == 0, outcome.err
        if outcome.code == 0:
            check_trained(skipped, num_steps=1)
            report = json.loads((skipped / "run.json").read_text(encoding="utf-8"))["data"]["train"]
            dropped = {int(number) for number in report["dropped"]}
            missed, lost = set(bad) - dropped, dropped & set(good)
            assert not missed, {number: file.lines[number - 1] for number in missed}
            assert not lost, {number: (file.lines[number - 1], report["dropped"][str(number)]) for number in lost}
            assert all(report["dropped"].values())
            assert report["num_rows"] == len(file.lines)
            assert report["num_kept"] == len(file.lines) - len(dropped)
            trained = json.loads((skipped / "metrics.jsonl").read_text(encoding="utf-8"))["num_rows"]
            assert trained == report["num_kept"]
        else:
            check_untrained(skipped)
        outcome = run("train", str(config), "data.on_bad_row=error", f"output_dir={stopped}")
        check_manners(outcome)
        if bad or not good:
            assert outcome.code == 1, outcome.err
            check_untrained(stopped)
        elif not wild:
            assert outcome.code == 0, outcome.err
        if bad and good and not [number for number in wild if number < bad[0]]:
            assert f"{path} row {bad[0]}: " in outcome.error, (outcome.error, file.lines[bad[0] - 1])
    return Counter(line.verdict for line in file.lines)


# Good rows -----------------------------------------------------------------------------------------------------------

_LETTERS = st.sampled_from("abcxyzäßé\u05d0\u0627\u4e2d\U0001f600\u200b\u202e\u0301 \n\t0.?")
_TEXT = st.text(_LETTERS, max_size=6)
_IDS = st.lists(st.integers(20, 200), min_size=1, max_size=6)
_SORTS = ("text", "conversation", "ids")
_MARKS = "ABCDEFG"  # every completion of a row begins with its own, so that no two are equal


@st.composite
def _value(draw: st.DrawFn, sort: str, mark: str, role: str) -> Any:
    """One text of a row, beginning with a mark and ending in a letter."""
    if sort == "ids":
        return [100 + ord(mark), *draw(_IDS)]
    text = f"{mark}{draw(_TEXT)}q"
    if sort == "text":
        return text
    before = [{"role": "system", "content": draw(_TEXT)}] if role == "user" and draw(st.booleans()) else []
    return [*before, {"role": role, "content": text}]


@st.composite
def _good(draw: st.DrawFn, kind: str, label: bool | None = None) -> tuple[str, dict[str, Any]]:
    sort = draw(st.sampled_from(_SORTS))
    prompt = draw(_value(sort, "P", "user"))
    answers = [draw(_value(sort, mark, "assistant")) for mark in _MARKS[: draw(st.integers(2, 4))]]
    row: dict[str, Any] = {"prompt": prompt}
    if kind == "pairs":
        row |= {"chosen": answers[0], "rejected": answers[1]}
        if draw(st.booleans()):
            row |= {"chosen_score": draw(st.integers(0, 9)), "rejected_score": draw(st.floats(-9, 9))}
    elif kind == "labels":
        row |= {"completion": answers[0], "label": draw(st.booleans()) if label is None else label}
        if draw(st.booleans()):
            row["undesirable_weight"] = draw(st.sampled_from([1, 0.5, 3.0]))
    elif kind == "rankings":
        scores = draw(st.lists(st.integers(-9, 9), min_size=len(answers), max_size=len(answers), unique=True))
        row |= {"completions": answers, "scores": scores}
    elif sort == "conversation" and draw(st.booleans()):
        row = {"messages": [*prompt, *answers[0]]}
    else:
        row["completion"] = answers[0]
    if draw(st.booleans()):
        row["weight"] = draw(st.sampled_from([1, 2, 0.5, 1e-3, 100]))
    return sort, row


_HARMLESS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "as it is": lambda row: _line(row),
    "escaped": lambda row: json.dumps(row, ensure_ascii=True).encode(),
    "blanks around": lambda row: b" \t" + _line(row) + b"  ",
    "carriage return": lambda row: _line(row) + b"\r",
    "BOM": lambda row: b"\xef\xbb\xbf" + _line(row),
    "a column of its own": lambda row: _line({**row, "id": 7}),
    "a null column": lambda row: _line({**row, "weight": None}),
    "a nested column": lambda row: _line({**row, "nested": json.loads("[" * 200 + "]" * 200)}),
    "half a character in another column": lambda row: json.dumps({**row, "x": "\ud800"}).encode(),
    "half a character in another column's name": lambda row: json.dumps({**row, "\ud800": 1}).encode(),
    "a line break in a column's name": lambda row: _line({**row, "a\nerror: b\x1b[31m": 1}),
    "the other way round": lambda row: _line(dict(reversed(row.items()))),
}


@st.composite
def _good_line(draw: st.DrawFn, kind: str, ending: str, label: bool | None = None) -> Line:
    sort, row = draw(_good(kind, label))
    if ending == "parquet":
        return Line(_line(draw(_flat(kind, label))), "good", "as it is")
    harmless = [name for name in _HARMLESS if ending == "jsonl" or name not in ("BOM",)]
    how = draw(st.sampled_from(harmless))
    return Line(_HARMLESS[how](row), "good", f"{sort}, {how}")


# Broken rows ---------------------------------------------------------------------------------------------------------

_NO_TEXT: list[Any] = [
    7,
    -1.5,
    True,
    {},
    {"a": 1},
    [],
    ["x"],
    [None],
    [[1]],
    [1.5],
    [1, "x"],
    [True],
    [1, {"a": 1}],
    [{"role": "user"}],
    [{"content": "x"}],
    [{}],
    [{"role": "assistant", "content": 3}],
    [{"role": "", "content": "x"}],
    [{"role": 5, "content": "x"}],
    [{"role": "assistant", "content": ["x"]}],
]
_NO_ANSWER: list[Any] = [
    None,
    "",
    " ",
    "\n\t ",
    "\u3000",
    [{"role": "user", "content": "x"}],
    [{"role": "assistant", "content": ""}],
    [{"role": "assistant", "content": " \n"}],
    [{"role": "assistant", "content": None}],
    [{"role": "assistant", "content": "x"}, "y"],
]
_NO_ID: list[Any] = [-1, 10**6, 2**31, 2**63, 10**30, 1.0, None, "1", True, [1]]
_NO_WEIGHT: list[Any] = [0, -1, -0.0, 0.0, -1e-300, "1", "", True, False, [], [1], {}, 10**400]
_NO_SCORE: list[Any] = ["1", True, [1], {}, 10**400]
_NO_LABEL: list[Any] = ["true", "True", 1, 0, 1.0, "", "yes", [], [True], {}, None]
_OTHER_SORT: dict[str, list[Any]] = {
    "text": [[50, 60], [{"role": "assistant", "content": "x"}]],
    "conversation": ["x", [50, 60]],
    "ids": ["x", [{"role": "assistant", "content": "x"}]],
}


def _answers(row: dict[str, Any]) -> list[str]:
    return [name for name in ("chosen", "rejected", "completion") if name in row]


@st.composite
def _broken_answer(draw: st.DrawFn, sort: str, row: dict[str, Any]) -> Any:
    bad = draw(st.sampled_from([*_NO_TEXT, *_NO_ANSWER, *_OTHER_SORT[sort]]))
    if names := _answers(row):
        return {**row, draw(st.sampled_from(names)): bad}
    if "completions" in row:
        return {**row, "completions": [*row["completions"][:-1], bad]}
    return {**row, "messages": bad if bad != [50, 60] else "x"}


@st.composite
def _broken_prompt(draw: st.DrawFn, sort: str, row: dict[str, Any]) -> Any:
    if "messages" in row:
        return {"messages": draw(st.sampled_from([row["messages"][-1:], row["messages"][:-1], [7], {}, 7, ["x"]]))}
    return {**row, "prompt": draw(st.sampled_from([*_NO_TEXT, *_OTHER_SORT[sort]]))}


@st.composite
def _broken_message(draw: st.DrawFn, sort: str, row: dict[str, Any]) -> Any:
    row = copy.deepcopy(row)
    name = draw(st.sampled_from([name for name in ("prompt", "messages", *_answers(row)) if name in row]))
    if sort == "conversation":
        messages = row[name]
        index = draw(st.integers(0, len(messages) - 1))
        messages[index] = draw(
            st.sampled_from(
                [
                    7,
                    "x",
                    None,
                    [],
                    {},
                    {"role": "user"},
                    {"content": "x"},
                    {"role": None, "content": "x"},
                    {"role": "user", "content": 7},
                    {"role": "user", "content": {"text": "x"}},
                    {"role": ["user"], "content": "x"},
                ]
            )
        )
    elif sort == "ids":
        row[name] = [*row[name], draw(st.sampled_from(_NO_ID))]
    else:
        row[name] = row[name] + "\ud800"
    return row


@st.composite
def _missing(draw: st.DrawFn, sort: str, row: dict[str, Any]) -> Any:
    needed = [
        name
        for name in ("chosen", "rejected", "completion", "completions", "scores", "label", "messages")
        if name in row
    ]
    name = draw(st.sampled_from(needed))
    left = {key: value for key, value in row.items() if key != name}
    return {**left, name: None} if draw(st.booleans()) else left


@st.composite
def _broken_number(draw: st.DrawFn, sort: str, row: dict[str, Any]) -> Any:
    names = ["weight"]
    if "label" in row:
        names += ["undesirable_weight", "label"]
    if "chosen" in row:
        names += ["chosen_score", "rejected_score", "lone score"]
    if "scores" in row:
        names += ["scores", "scores", "one score", "one score"]
    name = draw(st.sampled_from(names))
    if name == "lone score":
        kept = {key: value for key, value in row.items() if not key.endswith("_score")}
        return {**kept, draw(st.sampled_from(["chosen_score", "rejected_score"])): 1}
    if name == "scores":
        count = len(row["scores"])
        return {
            **row,
            "scores": draw(
                st.sampled_from([7, "x", [], [1] * count, [1, 2, 3, 4, 5, 6], [2], {}, True, [[1]] * count])
            ),
        }
    if name == "one score":
        return {**row, "scores": [*row["scores"][1:], draw(st.sampled_from([*_NO_SCORE, None]))]}
    if name.endswith("_score"):
        return {**row, "chosen_score": 1, "rejected_score": 0, name: draw(st.sampled_from(_NO_SCORE))}
    return {**row, name: draw(st.sampled_from(_NO_LABEL if name == "label" else _NO_WEIGHT))}


@st.composite
def _nothing_to_choose(draw: st.DrawFn, sort: str, row: dict[str, Any]) -> Any:
    if "chosen" in row:
        if sort == "text" and draw(st.booleans()):  # they differ only beyond what is kept
            return {**row, "prompt": "p", "chosen": "a b " * 2000 + "x", "rejected": "a b " * 2000 + "y"}
        return {**row, "rejected": row["chosen"]}
    if "completions" in row:
        count = len(row["completions"])
        which = draw(st.sampled_from(["equal", "one", "none", "no list", "twice"]))
        same = row["completions"][:1]
        if which == "twice":  # under two scores
            return {**row, "completions": [*row["completions"], *same], "scores": [*row["scores"], 77]}
        given = {"equal": same * count, "one": same, "none": [], "no list": "text"}[which]
        return {
            **row,
            "completions": given,
            "scores": row["scores"][: len(given)] if which != "no list" else row["scores"],
        }
    return {}


_LINES: dict[str, Callable[[bytes], bytes]] = {
    "blank": lambda line: b"",
    "blanks": lambda line: b"  \t ",
    "not UTF-8": lambda line: line[:-1] + b', "x": "\xff\xfe"}',
    "Latin-1": lambda line: line[:-1] + b', "x": "caf\xe9"}',
    "surrogates in UTF-8": lambda line: line[:-1] + b', "x": "\xed\xa0\x80"}',
    "cut off": lambda line: line[:-1],
    "cut off in the middle": lambda line: line[: len(line) // 2],
    "twice on a line": lambda line: line + line,
    "a comma after it": lambda line: line + b",",
    "single quotes": lambda line: b"{'prompt': 'a', 'chosen': 'b', 'rejected': 'c'}",
    "Python's True": lambda line: line[:-1] + b', "x": True}',
    "a comma too many": lambda line: line[:-1] + b",}",
    "NaN": lambda line: line[:-1] + b', "x": NaN}',
    "Infinity": lambda line: line[:-1] + b', "weight": Infinity}',
    "a weight beyond a double": lambda line: line[:-1] + b', "weight": 1e400}',
    "a number too long to read": lambda line: line[:-1] + b', "x": ' + b"9" * 5000 + b"}",
    "NUL": lambda line: line[:-1] + b"\0}",
    "a control character in a text": lambda line: line[:-1] + b', "x": "\x01"}',
    "nested too deeply": lambda line: line[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a key twice": lambda line: line[:-1] + b', "weight": 1, "weight": 2}',
    "a column twice": lambda line: b'{"prompt": "p", ' + line[1:-1] + b', "prompt": "p"}',
    "a comment": lambda line: b"// " + line,
    "no JSON": lambda line: b"hello",
}
_NO_ROWS = (b"7", b"1.5", b'"text"', b"null", b"true", b"[]", b"[[1, 2]]", b"{}", b'{"a": 1}', b'{"": null}')
_BREAKS = {
    "an answer that is none": _broken_answer,
    "a prompt that is none": _broken_prompt,
    "a broken message, id or character": _broken_message,
    "a column missing": _missing,
    "a number that is none": _broken_number,
    "nothing to choose": _nothing_to_choose,
}


@st.composite
def _bad_line(draw: st.DrawFn, kind: str, ending: str) -> Line:
    if ending == "parquet":
        row = draw(_flat(kind))
        broken = draw(st.sampled_from(_flat_faults(kind)))
        return Line(_line({**row, **broken}), "bad", f"parquet, {broken}")
    sort, row = draw(_good(kind))
    how = draw(st.sampled_from(["no row", "no line", *_BREAKS, *_BREAKS]))
    if how == "no row" or (how == "no line" and ending == "json"):
        content = draw(st.sampled_from(_NO_ROWS))
        return Line(content, "bad", f"no row: {content!r}")
    if how == "no line":
        what = draw(st.sampled_from(sorted(_LINES)))
        return Line(_LINES[what](_line(row)), "bad", what)
    broken = draw(_BREAKS[how](sort, row))
    return Line(json.dumps(broken).encode(), "bad", f"{sort}, {how}")


# Rows of which nothing is known --------------------------------------------------------------------------------------

_NAMES = (
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "completions",
    "label",
    "scores",
    "messages",
    "weight",
    "tools",
    "prompt_ids",
    "chosen_ids",
    "chosen_score",
    "rejected_score",
    "undesirable_weight",
    "role",
    "content",
)
_ODD = ["</s>", "<|im_end|>", "<|im_start|>user\n", "<s>", "{{ 7 }}", "\ud800", "\0", "a" * 3000, "\u200b", "\u202e"]
_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=4),
        st.sampled_from(_ODD),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(_NAMES), st.text(max_size=3)), inner, max_size=3),
    ),
    max_leaves=6,
)


@st.composite
def _wild_line(draw: st.DrawFn, kind: str, ending: str) -> Line:
    sort, row = draw(_good(kind))
    names = st.sampled_from([*row, *_NAMES])
    changed = {**row, **draw(st.dictionaries(names, _JSON, min_size=1, max_size=3))}
    return Line(json.dumps(changed).encode(), "wild", sort)


# Files ---------------------------------------------------------------------------------------------------------------


@st.composite
def files(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(LOSS), num_lines: tuple[int, int] = (14, 26)) -> File:
    """A file of one kind; its first rows are good and say so, but for files that hold no good row at all."""
    kind = draw(st.sampled_from(kinds))
    ending = draw(st.sampled_from(["jsonl", "jsonl", "jsonl", "json", "parquet"]))
    lines = st.one_of(_bad_line(kind, ending), _bad_line(kind, ending), _good_line(kind, ending))
    if ending != "parquet":
        lines = st.one_of(lines, lines, lines, _wild_line(kind, ending))
    if draw(st.integers(0, 15)) == 0:
        return File(kind, ending, tuple(draw(st.lists(_bad_line(kind, ending), min_size=1, max_size=num_lines[0]))))
    least, most = num_lines
    middle = draw(st.lists(lines, min_size=least - 3, max_size=most - 3))
    first = [draw(_good_line(kind, ending, label)) for label in (True, False)]
    return File(kind, ending, (*first, *middle, draw(_good_line(kind, ending))))


def every_fault(kind: str) -> File:
    """A file with each broken value of the tables above once, which no draw may leave out."""
    text = {"prompt": "P", "weight": 1}
    ids = {"prompt": [100], "weight": 1}
    for own, answers in ((text, ["A", "B"]), (ids, [[101, 30], [102, 31]])):
        if kind == "pairs":
            own.update(chosen=answers[0], rejected=answers[1])
        elif kind == "rankings":
            own.update(completions=answers, scores=[1, 2])
        else:
            own.update(completion=answers[0], **({"label": True} if kind == "labels" else {}))

    def answered(row: dict[str, Any], value: Any) -> dict[str, Any]:
        if kind == "rankings":
            return {**row, "completions": [row["completions"][0], value]}
        return {**row, "chosen" if kind == "pairs" else "completion": value}

    broken = [answered(text, value) for value in (*_NO_TEXT, *_NO_ANSWER)]
    broken += [answered(ids, [101, value]) for value in _NO_ID]
    broken += [{**ids, "prompt": [100, value]} for value in _NO_ID]
    broken += [{**text, "prompt": value} for value in _NO_TEXT]
    broken += [{**text, "weight": value} for value in _NO_WEIGHT]
    if kind == "labels":
        broken += [{**text, "label": value} for value in _NO_LABEL]
        broken += [{**text, "undesirable_weight": value} for value in _NO_WEIGHT]
    if kind == "pairs":
        broken += [{**text, "chosen_score": value, "rejected_score": 1} for value in _NO_SCORE]
    if kind == "rankings":
        broken += [{**text, "scores": [1, value]} for value in (*_NO_SCORE, None)]
    contents = [json.dumps(row).encode() for row in broken]
    contents += [*_NO_ROWS, *(spoil(_line(text)) for spoil in _LINES.values())]
    good = [text, {**ids, "label": False} if kind == "labels" else ids]
    lines = [Line(_line(row), "good", "") for row in good]
    lines += [Line(content, "bad", repr(content[:200])) for content in contents]
    return File(kind, "jsonl", (*lines, Line(_line(text), "good", "")))


@st.composite
def _flat(draw: st.DrawFn, kind: str, label: bool | None = None) -> dict[str, Any]:
    """A row whose columns have one type in every row, as Parquet wants them."""
    row: dict[str, Any] = {"prompt": f"P{draw(_TEXT)}q", "weight": draw(st.sampled_from([1.0, 2.5]))}
    answers = [f"{mark}{draw(_TEXT)}q" for mark in "AB"]
    if kind == "pairs":
        return row | {"chosen": answers[0], "rejected": answers[1]}
    if kind == "rankings":
        return row | {"completions": answers, "scores": draw(st.sampled_from([[1.0, 2.0], [0.5, -3.0]]))}
    row["completion"] = answers[0]
    return row | {"label": draw(st.booleans()) if label is None else label} if kind == "labels" else row


def _flat_faults(kind: str) -> list[dict[str, Any]]:
    weights: list[dict[str, Any]] = [{"weight": value} for value in (0.0, -1.0, float("nan"), float("inf"))]
    if kind == "pairs":
        return [*weights, {"chosen": None}, {"rejected": ""}, {"chosen": "x", "rejected": "x"}, {"chosen": " "}]
    if kind == "rankings":
        nan = float("nan")
        return [
            *weights,
            {"scores": [1.0, 1.0]},
            {"scores": [1.0, nan]},
            {"scores": [1.0]},
            {"completions": ["x", "x"]},
            {"completions": []},
            {"completions": ["x", None]},
            {"scores": None},
        ]
    broken: list[dict[str, Any]] = [*weights, {"completion": None}, {"completion": ""}]
    return [*broken, {"label": None}] if kind == "labels" else broken


def _schema(rows: list[dict[str, Any]]) -> pyarrow.Schema:
    text, number = pyarrow.string(), pyarrow.float64()
    types = {
        "weight": number,
        "label": pyarrow.bool_(),
        "completions": pyarrow.list_(text),
        "scores": pyarrow.list_(number),
    }
    return pyarrow.schema([(name, types.get(name, text)) for name in dict.fromkeys(key for row in rows for key in row)])


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()

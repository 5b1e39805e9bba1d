"""The pages of docs/losses say what the code says: every one is what is made now, its examples and configs run."""

from __future__ import annotations

import doctest
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

import prefopt
from prefopt import pages

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "losses"
LOSSES = {
    name: loss
    for name, loss in sorted(prefopt.load_registry().losses.items())
    if loss.__module__.startswith("prefopt_losses.")
}


def stale(folder: Path) -> set[str]:
    """The names of files that are missing, too many, or not what is made of the losses now."""
    made = {f"{name}.md": pages.page(loss) for name, loss in LOSSES.items()}
    made["README.md"] = pages.index(LOSSES.values())
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    return {name for name in made.keys() | found.keys() if made.get(name) != found.get(name)}


def dead_links(folder: Path, texts: Mapping[str, str]) -> list[str]:
    return [
        f"{name}: {target}"
        for name, text in texts.items()
        for target in re.findall(r"\]\((?!https:)([^)#]+)\)", text)
        if not (folder / target).exists()
    ]


def test_every_loss_has_its_page_and_every_page_its_loss():
    assert not stale(FOLDER), "`make docs` writes them"
    assert {path.stem for path in FOLDER.glob("*.md")} == {*LOSSES, "README"}


@pytest.mark.parametrize(
    ("old", "new"), [("beta: 0.1}", "beta: 0.2}"), ("| `0.1` |", "| `0.2` |"), ("-log sigmoid(", "log sigmoid(")]
)
def test_a_page_that_lies_is_found(tmp_path, old, new):
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.name == "dpo.md":
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    assert stale(tmp_path) == {"dpo.md"}


def test_a_missing_page_and_a_page_too_many_are_found(tmp_path):
    for path in FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "dpo.md").rename(tmp_path / "dpoo.md")
    assert stale(tmp_path) == {"dpo.md", "dpoo.md"}


def test_links_between_pages_lead_somewhere():
    texts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    assert not dead_links(FOLDER, texts)
    assert all(f"({name}.md)" in texts["README.md"] for name in LOSSES)
    assert dead_links(FOLDER, {"x.md": "[`dpoo`](dpoo.md), [`dpo`](dpo.md)"}) == ["x.md: dpoo.md"]


@pytest.mark.parametrize("name", LOSSES)
def test_the_source_can_be_read_somewhere(name):
    assert re.search(r"\(https://arxiv\.org/abs/\d{4}\.\d{4,5}\)|<https://[^>]+>", pages.page(LOSSES[name]))


@pytest.mark.parametrize("name", LOSSES)
def test_the_example_of_a_page_runs(name):
    results = doctest.testfile(str(FOLDER / f"{name}.md"), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", LOSSES)
def test_the_configs_and_the_call_of_a_page_are_the_loss_at_its_defaults(name):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        loss = yaml.safe_load(block)["loss"]
        given = {"name": loss} if isinstance(loss, str) else loss
        assert LOSSES[name](**{key: value for key, value in given.items() if key != "name"}) == LOSSES[name]()
        assert given["name"] == name
    (call,) = re.findall(r"```python\nimport prefopt\n\n(.*?)```", text, re.DOTALL)
    names = {"prefopt": prefopt}
    exec(call, names)
    assert names["loss"] == LOSSES[name]()


# Losses that are not ours --------------------------------------------------------------------------------------------


class Bare(prefopt.PairLoss):
    name = "bare"

    def values(self, batch):
        return batch.chosen.policy

    def reward(self, completions):
        return completions.policy


class Odd(Bare):
    """The a * b <em>c</em> of a pair.

    loss = a | b

    Args:
        k: how many | or none,
            over two lines.
        mode, other: two of a kind.

    Source:
        A report, https://example.org/report.pdf, and arXiv 2401.00001.
    """

    name = "odd"
    relations = (prefopt.Relation("dpo", where={"k": None}, given={"beta": 1.0}, num_completions=2),)
    expected_failures: ClassVar = {"gradient": "it has a * kink"}
    learning_rates = (5e-7, 2e-6)
    on_length = "divides by 2 * the length"
    k: int | None = prefopt.field(None, ge=1)
    mode: str = "sum"
    other: bool = True


def test_a_loss_without_a_docstring_has_a_page_and_a_row():
    assert pages.page(Bare).startswith("# bare\n\n")
    assert "## Hyper-parameters\n\nNone." in pages.page(Bare)
    assert "| [`bare`](bare.md) |  | pairs |  |" in pages.index([Bare])


def test_everything_a_loss_may_declare_is_on_its_page():
    page = pages.page(Odd)
    for told in (
        "The a \\* b \\<em>c\\</em> of a pair.",
        "| `k` | `null` | >= 1 or null |  | how many \\| or none, over two lines. |",
        "| `other` | `true` | true, false |  | two of a kind. |",
        "A report, <https://example.org/report.pdf>, and [arXiv 2401.00001](https://arxiv.org/abs/2401.00001).",
        "- equals [`dpo`](dpo.md) with beta = 1.0, where k = None, on rankings of 2 completions",
        "- `gradient`: it has a \\* kink",
        "- its authors trained whole models with a learning rate of 5e-7 to 2e-6; small models and adapters take",
        "- to keep length out of the reward it divides by 2 \\* the length",
        "loss: {name: odd, k: null, mode: sum, other: true}",
        'prefopt.get_loss("odd", k=None, mode="sum", other=True)',
    ):
        assert told in page

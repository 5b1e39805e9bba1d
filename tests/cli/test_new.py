from __future__ import annotations

from pathlib import Path

import pytest


def test_what_was_written_and_what_to_type_next_is_printed(prefopt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = prefopt("new", "loss", "wide_margin")
    assert outcome.code == 0, outcome.err
    *wrote, install, test = outcome.out.splitlines()
    assert wrote == [
        f"wrote prefopt-wide-margin/{name}"
        for name in ("prefopt_wide_margin.py", "test_prefopt_wide_margin.py", "pyproject.toml", "README.md")
    ]
    assert install.split() == ["next", "pip", "install", "-e", "'./prefopt-wide-margin[test]'"]
    assert test.split() == ["pytest", "prefopt-wide-margin"]
    assert all(Path(line.split()[1]).is_file() for line in wrote)
    assert "PairLoss" in Path("prefopt-wide-margin/prefopt_wide_margin.py").read_text()


def test_the_kind_of_rows_and_the_folder_are_chosen(prefopt, tmp_path):
    prefopt("new", "loss", "mine", "--rows", "rankings", "--into", tmp_path / "new" / "folder")
    file = tmp_path / "new" / "folder" / "prefopt-mine" / "prefopt_mine.py"
    assert "RankingLoss" in file.read_text()
    assert "mine" in prefopt("losses", "--plugin", file).out


@pytest.mark.parametrize("name", ["Mine", "my-loss", "my loss", "1st", "_mine", "lambda", "größe", "../mine", ""])
def test_what_is_no_name_for_a_loss_is_refused(prefopt, tmp_path, name):
    assert (
        "must be one lowercase word of letters, digits and _" in prefopt("new", "loss", name, "--into", tmp_path).error
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dpo"], "there is a loss or method named 'dpo' already; `prefopt plugins` says who brings it"),
        (["ppo"], "there is a loss or method named 'ppo' already"),
        (["losses"], "a module named 'prefopt_losses' is installed already"),
        (["mine", "--rows", "pair"], "--rows is 'pair'; it must be one of pairs, labels, rankings"),
    ],
)
def test_what_cannot_be_written_is_refused(prefopt, tmp_path, arguments, told):
    assert told in prefopt("new", "loss", *arguments, "--into", tmp_path).error
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(prefopt, tmp_path):
    folder = tmp_path / "prefopt-mine"
    folder.mkdir()
    assert "exists already" in prefopt("new", "loss", "mine", "--into", tmp_path).error
    assert not list(folder.iterdir())


def test_a_file_in_place_of_a_folder_is_one_sentence(prefopt, tmp_path):
    (tmp_path / "file").write_text("kept")
    assert "cannot write" in prefopt("new", "loss", "mine", "--into", tmp_path / "file").error
    assert (tmp_path / "file").read_text() == "kept"


def rows_of(kind, pairs):
    """The pairs as rows of a kind; every other ranking is longer."""
    if kind == "labels":
        return [
            {"prompt": row["prompt"], "completion": row["chosen"], "label": n % 2 == 0} for n, row in enumerate(pairs)
        ]
    if kind == "rankings":
        texts = [
            [row["chosen"], row["rejected"], row["chosen"] + " indeed"][: 2 + n % 2] for n, row in enumerate(pairs)
        ]
        rankings = zip(pairs, texts, strict=True)
        return [{"prompt": row["prompt"], "completions": own, "scores": [2, 1, 3][: len(own)]} for row, own in rankings]
    return pairs


@pytest.mark.parametrize("kind", ["pairs", "labels", "rankings"])
def test_what_was_written_trains_as_it_is(prefopt, write_config, write_rows, pair_rows, tmp_path, kind):
    prefopt("new", "loss", "mine", "--rows", kind, "--into", tmp_path)
    config = write_config(write_rows(rows_of(kind, pair_rows)))
    file = tmp_path / "prefopt-mine" / "prefopt_mine.py"
    outcome = prefopt("train", config, "loss=mine", "--plugin", file)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "out" / "metrics.jsonl").read_text().count("\n") == 3

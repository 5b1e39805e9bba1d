from __future__ import annotations

import json

import pytest

from prefopt.errors import DataError
from prefopt.evaluation.judges.comparison import Judgement
from prefopt.evaluation.judges.judgements import Judgements, key_of
from prefopt.evaluation.judges.scores import named
from tests.evaluation.judges.comparisons import compared

JUDGE = named("length")


def add(judgements, comparisons, verdict="tie"):
    for own in comparisons:
        judgements.add(key_of(JUDGE, own), JUDGE, own, Judgement(verdict, {"first": "policy", "reply": "so\n\udc80é"}))


def test_judgements_are_found_again_with_their_raw_reply(tmp_path):
    path = tmp_path / "judgements.jsonl"
    some = compared(("a", "b"), ("c\ud800", "d"))
    add(Judgements(path), some, verdict=None)
    again = Judgements(path)
    for own in some:
        assert again.find(key_of(JUDGE, own)) == Judgement(None, {"first": "policy", "reply": "so\n\udc80é"})
    assert again.find(key_of(JUDGE, compared(("a", "x"))[0])) is None
    first = json.loads(path.read_text().splitlines()[0])
    assert (first["row"], first["prompt"], first["policy"], first["other"]) == ("rows row 1", "Question 1", "a", "b")
    assert first["judge"] == {"name": "length"}


def test_the_same_judgement_is_written_once_and_a_new_one_replaces_it(tmp_path):
    path = tmp_path / "judgements.jsonl"
    some = compared(("a", "b"))
    judgements = Judgements(path)
    add(judgements, some)
    add(judgements, some)
    add(Judgements(path), some)
    assert len(path.read_text().splitlines()) == 1
    add(Judgements(path), some, verdict="policy")
    assert Judgements(path).find(key_of(JUDGE, some[0])).verdict == "policy"


def test_whatever_byte_a_write_is_cut_at_the_lines_before_stay(tmp_path):
    path = tmp_path / "judgements.jsonl"
    some = compared(("a", "b"), ("c", "d"), ("e", "f"))
    add(Judgements(path), some[:2])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        judgements = Judgements(path)
        assert judgements.find(key_of(JUDGE, some[0])) is not None
        assert judgements.find(key_of(JUDGE, some[1])) is None
        assert path.read_bytes() == whole[:first]
    add(judgements, some[2:])
    assert Judgements(path).find(key_of(JUDGE, some[2])) is not None


@pytest.mark.parametrize(
    "line", ["{", "3", "{}", "null", '{"key": []}', '{"key": "a"}', '{"key": "a", "verdict": "B"}']
)
def test_a_line_that_is_no_judgement_is_refused_by_number(tmp_path, line):
    path = tmp_path / "judgements.jsonl"
    add(Judgements(path), compared(("a", "b")))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match="line 2 is no judgement"):
        Judgements(path)


def test_a_file_that_cannot_be_read_or_written_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        Judgements(tmp_path / "folder")
    with pytest.raises(DataError, match="cannot be written"):
        add(Judgements(tmp_path / "nowhere" / "judgements.jsonl"), compared(("a", "b")))

from __future__ import annotations

import copy

import pytest

from prefopt.data import identity
from prefopt.data.identity import rows_key, tokenizer_digest

from .tokenizers import TOKENIZERS, tokenizer

SETTINGS = {"max_length": 8, "on_bad_row": "error"}


def test_every_tokenizer_has_a_digest_of_its_own_and_keeps_it():
    digests = {name: tokenizer_digest(tokenizer(name)) for name in TOKENIZERS}
    assert len(set(digests.values())) == len(digests)
    assert digests == {name: tokenizer_digest(copy.deepcopy(tokenizer(name))) for name in TOKENIZERS}


def test_a_template_is_part_of_it():
    assert tokenizer_digest(tokenizer("adds_bos", "chatml")) != tokenizer_digest(tokenizer("adds_bos", "llama3"))


def test_a_template_that_asks_for_the_date_is_another_one_every_day(monkeypatch, plain):
    class Tomorrow:
        @staticmethod
        def today():
            return Tomorrow

        @staticmethod
        def isoformat():
            return "2999-01-01"

    dated = copy.deepcopy(plain)
    dated.chat_template = "{{ strftime_now('%d') }}"
    today = tokenizer_digest(dated), tokenizer_digest(plain)
    monkeypatch.setattr(identity, "date", Tomorrow)
    assert tokenizer_digest(dated) != today[0]
    assert tokenizer_digest(plain) == today[1]


@pytest.mark.parametrize("changed", [{"max_length": 9}, {"on_bad_row": "skip"}])
def test_every_setting_changes_the_key(plain, changed):
    assert rows_key("a", plain, **SETTINGS) == rows_key("a", plain, **SETTINGS)
    assert rows_key("a", plain, **SETTINGS) != rows_key("a", plain, **SETTINGS | changed)
    assert rows_key("a", plain, **SETTINGS) != rows_key("b", plain, **SETTINGS)


def test_other_code_of_the_room_changes_the_key(plain, monkeypatch):
    key = rows_key("a", plain, **SETTINGS)
    monkeypatch.setattr(identity, "_code_digest", lambda: "other")
    assert rows_key("a", plain, **SETTINGS) != key

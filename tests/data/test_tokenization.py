import pytest

from prefopt.data.bad_row import BadRow
from prefopt.data.columns import read_row
from prefopt.data.load import load_rows
from prefopt.data.row import Completion
from prefopt.data.tokenization import RowTokenizer
from prefopt.errors import DataError

from .tokenizers import TOKENIZERS, tokenizer


def ids_of(raw, own):
    return RowTokenizer(own)(read_row(raw))


def test_token_ids_stand_as_given_without_an_end():
    whole = ids_of({"prompt": [5], "chosen": [6, 7], "rejected": [8]}, tokenizer("adds_bos_and_eos"))
    assert whole.prompt == (5,)
    assert whole.completions == (Completion((6, 7), (True, True)), Completion((8,), (True,)))
    assert not whole.shifted


@pytest.mark.parametrize("token", [-1, 423])
def test_an_id_outside_the_vocabulary_is_a_bad_row(token):
    with pytest.raises(BadRow, match=f"token id {token} is not in the tokenizer's vocabulary of 423"):
        ids_of({"prompt": [5], "chosen": [6, token], "rejected": [8]}, tokenizer("adds_bos"))


def test_the_last_id_of_the_vocabulary_is_fine():
    assert ids_of({"prompt": [422], "completion": [0]}, tokenizer("adds_bos")).prompt == (422,)


def test_ids_need_neither_end_nor_template():
    own = TOKENIZERS["without_bos"]()
    own.eos_token = None
    assert ids_of({"prompt": [5], "completion": [6]}, own).prompt == (5,)
    with pytest.raises(DataError, match="no end-of-sequence token"):
        ids_of({"prompt": "a", "completion": "b"}, own)


def test_scores_go_to_their_completions():
    raw = {"prompt": "a", "completions": [" b", " c", " d"], "scores": [3, 1, 2]}
    assert [c.score for c in ids_of(raw, tokenizer("adds_bos")).completions] == [3.0, 1.0, 2.0]


def test_text_longer_than_the_tokenizers_own_limit_is_not_cut():
    own = TOKENIZERS["adds_bos"]()
    own.model_max_length = 4
    whole = ids_of({"prompt": "the " * 50, "completion": "sky " * 50}, own)
    assert len(whole.prompt) > 50
    assert len(whole.completions[0].ids) > 50


def test_an_empty_prompt_of_ids_is_bos_as_an_empty_text_is():
    words = tokenizer("adds_bos")
    text, _ = load_rows([{"prompt": "", "chosen": "the sky", "rejected": "the sea"}], words, max_length=64)
    chosen, rejected = (list(own.ids) for own in text[0].completions)
    ids, _ = load_rows([{"prompt_ids": [], "chosen_ids": chosen, "rejected_ids": rejected}], words, max_length=64)
    assert ids[0].prompt == text[0].prompt == (words.bos_token_id,)
    assert ids[0].completions == text[0].completions

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from prefopt.data.bad_row import BadRow
from prefopt.data.plain_text import PlainText
from prefopt.errors import DataError

from .tokenizers import TOKENIZERS, tokenizer

TEXT = st.text("ab AQ:?.\n\tthe 1éλ字😀<|", max_size=30)


def split(name, prompt, *completions):
    return PlainText(tokenizer(name)).split(prompt, completions)


def tokens(name, ids):
    return tokenizer(name).convert_ids_to_tokens(ids)


def test_golden_tokens():
    prompt, (completion,), shifted = split("without_bos", "Question: why?\nAnswer:", " the sky")
    assert tokens("without_bos", prompt) == "Question : Ġw h y ? Ċ Answer :".split()
    assert tokens("without_bos", completion) == ["Ġthe", "Ġsky", "</s>"]
    assert not shifted


def test_the_tokenizers_own_bos_opens_the_prompt_and_its_own_eos_is_not_inside():
    bos = split("adds_bos", "Question:", " the sky")
    assert tokens("adds_bos", bos[0]) == ["<s>", "Question", ":"]
    assert split("adds_bos_and_eos", "Question:", " the sky") == bos


def test_a_merge_across_the_boundary_goes_to_the_completion():
    prompt, (completion,), shifted = split("merges_across_words", "Question: why?\nAnswer:", " the sky")
    assert tokens("merges_across_words", prompt) == ["Question", ":Ġ", "w", "h", "y", "?ĊAnswer"]
    assert tokens("merges_across_words", completion) == [":ĠtheĠsky", "</s>"]
    assert shifted


def test_one_completion_that_merges_moves_the_boundary_of_all():
    prompt, (merged, other), shifted = split("merges_across_words", "Answer:", " the sky", "!")
    assert tokens("merges_across_words", prompt) == ["A", "nswer"]
    assert tokens("merges_across_words", merged) == [":ĠtheĠsky", "</s>"]
    assert tokens("merges_across_words", other) == [":", "!", "</s>"]
    assert shifted


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("without_bos", "</s>"),
        ("bos_is_eos", "</s>"),
        ("adds_bos", "<s>"),
        ("adds_bos_and_eos", "<s>"),
        ("merges_across_words", "<s>"),
        ("prefixes_space", "<s>"),
    ],
)
def test_an_empty_prompt_is_bos_or_else_eos_and_no_shift(name, start):
    prompt, (completion,), shifted = split(name, "", "the sky")
    assert tokens(name, prompt) == [start]
    assert completion == [*tokenizer(name)("the sky", add_special_tokens=False)["input_ids"], 2]
    assert not shifted


def test_a_prompt_merged_whole_is_replaced_by_bos():
    prompt, (completion,), shifted = split("merges_across_words", ":", " the sky")
    assert tokens("merges_across_words", prompt) == ["<s>"]
    assert tokens("merges_across_words", completion) == [":ĠtheĠsky", "</s>"]
    assert shifted


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("ending", ["", "</s>", "</s></s>"])
def test_a_completion_ends_in_one_eos_however_many_its_text_has(name, ending):
    assert split(name, "Question:", " the sky" + ending) == split(name, "Question:", " the sky")


def test_the_eos_of_a_prompt_stays():
    prompt, (completion,), _ = split("adds_bos_and_eos", "one</s>", "</s>")
    assert tokens("adds_bos_and_eos", prompt)[-1] == "</s>"
    assert completion == [2]


def test_a_text_that_brings_its_bos_gets_no_second():
    assert split("adds_bos", "<s>Question:", " the sky") == split("adds_bos", "Question:", " the sky")
    assert split("without_bos", "<s>Question:", " the sky")[0][0] == 1
    assert split("prefixes_space", "", "<s>the sky") == split("prefixes_space", "<s>", "the sky")


def test_a_completion_that_adds_no_token_is_refused():
    from tokenizers import normalizers

    own = TOKENIZERS["without_bos"]()
    own.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(BadRow, match="a completion adds no token to its prompt"):
        PlainText(own).split("Question", ["\u200b"])


def test_a_tokenizer_without_eos_is_refused():
    backend = TOKENIZERS["without_bos"]().backend_tokenizer
    with pytest.raises(DataError, match="has no end-of-sequence token"):
        PlainText(PreTrainedTokenizerFast(tokenizer_object=backend))


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(TEXT, st.lists(TEXT.filter(str.strip), min_size=1, max_size=3))
def test_prompt_and_completion_join_to_the_tokens_of_the_whole(name, prompt, completions):
    own = tokenizer(name)
    bos = [1] if name.startswith("adds_bos") else []
    alone = bos + own(prompt, add_special_tokens=False)["input_ids"]
    wholes = [bos + own(prompt + text, add_special_tokens=False)["input_ids"] for text in completions]
    assume(alone not in wholes)  # unknown characters in a row are one <unk>
    ids, parts, shifted = split(name, prompt, *completions)
    supplied = ids == [own.bos_token_id or 2] and not bos
    for part, whole in zip(parts, wholes, strict=True):
        assert part.count(2) == 1
        assert part[-1] == 2
        assert len(part) > 1
        assert (part if supplied else ids + part) == [*whole, 2]
    assert shifted == (bool(prompt) and ids != alone)
    # the boundary lies as far right as any completion lets it
    if not supplied:
        following = {tuple(whole[: len(ids) + 1]) for whole in [alone, *wholes]}
        assert len(ids) == len(alone) or len(following) > 1


@settings(max_examples=60, deadline=None)
@given(TEXT.filter(str.strip))
def test_one_more_completion_only_ever_moves_the_boundary_left(text):
    assume("<" not in text)
    alone, _, _ = split("merges_across_words", "Question:", " the sky")
    both, _, _ = split("merges_across_words", "Question:", " the sky", text)
    assert both == alone[: len(both)] or both == [1]

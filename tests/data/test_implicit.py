import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.data.bad_row import BadRow
from prefopt.data.implicit import shared_messages, shared_text


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def test_hh_text_is_split_before_the_blank_of_the_answer():
    asked = "\n\nHuman: why?\n\nAssistant:"
    prompt, completions = shared_text(asked + " because", asked + " no")
    assert prompt == asked
    assert completions == (" because", " no")


def test_a_word_that_begins_alike_is_not_split():
    assert shared_text("say understand", "say underline") == ("say", (" understand", " underline"))


def test_a_run_of_blanks_goes_to_the_completions():
    assert shared_text("A:  x", "A:  y") == ("A:", ("  x", "  y"))


def test_texts_without_a_common_word_have_an_empty_prompt():
    assert shared_text("abc", "abd") == ("", ("abc", "abd"))


def test_a_text_that_begins_the_other_keeps_a_word_of_its_own():
    assert shared_text("one two", "one two three") == ("one", (" two", " two three"))


@given(
    *[st.text(" \nab", min_size=1).filter(str.strip) for _ in range(2)],
    st.text(" \nab"),
)
def test_any_text_is_split_without_loss_before_a_blank(chosen, rejected, prefix):
    chosen, rejected = prefix + chosen, prefix + rejected
    prompt, completions = shared_text(chosen, rejected)
    assert [prompt + completion for completion in completions] == [chosen, rejected]
    assert all(completion.strip() for completion in completions)
    if prompt:
        assert not prompt[-1].isspace()
        assert all(completion[0].isspace() for completion in completions)


def test_common_messages_are_the_prompt():
    prompt, completions = shared_messages(
        [user("a"), answer("b"), user("c"), answer("d")], [user("a"), answer("b"), user("c"), answer("e")]
    )
    assert prompt == [user("a"), answer("b"), user("c")]
    assert completions == ([answer("d")], [answer("e")])


def test_a_conversation_that_begins_the_other_keeps_its_last_message():
    longer = [user("a"), answer("b"), user("c"), answer("d")]
    assert shared_messages(longer[:2], longer) == (longer[:1], (longer[1:2], longer[1:]))


def test_conversations_with_different_first_messages_have_no_prompt():
    with pytest.raises(BadRow, match="do not begin with the same message"):
        shared_messages([user("a"), answer("b")], [user("x"), answer("b")])

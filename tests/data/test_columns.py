import math

import pytest

from prefopt.data.bad_row import BadRow
from prefopt.data.columns import read_row


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
LABEL = {"prompt": "p", "completion": "c", "label": True}
RANKING = {"prompt": "p", "completions": ["a", "b"], "scores": [1, 0.5]}
CHAT = {"prompt": [user("p")], "chosen": [answer("c")], "rejected": [answer("r")]}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}


def test_explicit_pair():
    row = read_row(PAIR)
    assert (row.kind, row.prompt, row.completions) == ("pairs", "p", ("c", "r"))
    assert (row.scores, row.desirable, row.weight, row.ignored) == ((None, None), None, 1.0, ())


def test_implicit_pair_equals_explicit_pair():
    whole = {"chosen": [user("p"), answer("c")], "rejected": [user("p"), answer("r")]}
    assert read_row(whole) == read_row(CHAT)
    explicit = {"prompt": "p", "chosen": " c", "rejected": " r"}
    assert read_row({"chosen": "p c", "rejected": "p r"}) == read_row(explicit)


def test_ultrafeedback_binarized_is_an_implicit_pair():
    row = read_row(
        {
            "prompt": "p",
            "prompt_id": "f0",
            "chosen": [user("p"), answer("c")],
            "rejected": [user("p"), answer("r")],
            "messages": [user("p"), answer("c")],
            "score_chosen": 8.5,
            "score_rejected": 3,
        }
    )
    assert (row.prompt, row.completions) == ([user("p")], ([answer("c")], [answer("r")]))
    assert row.scores == (8.5, 3.0)
    assert row.ignored == ("prompt_id", "messages")


def test_label():
    row = read_row({**LABEL, "label": False})
    assert (row.kind, row.completions, row.desirable) == ("labels", ("c",), False)


def test_demonstration():
    assert read_row({"prompt": "p", "completion": "c"}).kind == "demonstrations"


def test_messages_end_in_the_demonstration():
    row = read_row({"messages": [user("a"), answer("b"), user("c"), answer("d")], "source": "x"})
    assert (row.kind, row.completions) == ("demonstrations", ([answer("d")],))
    assert row.prompt == [user("a"), answer("b"), user("c")]
    assert row.ignored == ("source",)


def test_ranking():
    row = read_row(RANKING)
    assert (row.kind, row.completions, row.scores) == ("rankings", ("a", "b"), (1.0, 0.5))


@pytest.mark.parametrize("suffix", ["", "_ids", "_input_ids"])
def test_token_ids_are_read_under_their_usual_names(suffix):
    row = read_row({f"prompt{suffix}": [1], f"chosen{suffix}": [2, 3], f"rejected{suffix}": [4]})
    assert (row.prompt, row.completions, row.ignored) == ((1,), ((2, 3), (4,)), ())


def test_token_ids_beside_the_text_are_reported_as_ignored():
    assert read_row({**PAIR, "prompt_ids": [1]}).ignored == ("prompt_ids",)


def test_pairs_win_over_other_formats():
    row = read_row({**PAIR, **LABEL})
    assert row.kind == "pairs"
    assert row.ignored == ("completion", "label")


def test_a_none_value_is_an_absent_column():
    assert read_row({**LABEL, "chosen": None, "rejected": None, "weight": None}).kind == "labels"


def test_undesirable_weight_is_read_of_labels_alone():
    assert read_row({**LABEL, "undesirable_weight": 0.5}).undesirable_weight == 0.5
    assert read_row(LABEL).undesirable_weight == 1.0
    assert read_row({**PAIR, "undesirable_weight": 0.5}).ignored == ("undesirable_weight",)


def test_weight_is_read():
    assert read_row({**PAIR, "weight": 2}).weight == 2.0


@pytest.mark.parametrize("tools", [[{"type": "function"}], '[{"type": "function"}]'])
def test_tools_are_read_as_a_list_or_json(tools):
    assert read_row({**CHAT, "tools": tools}).tools == [{"type": "function"}]


def test_tools_of_plain_text_are_ignored_aloud():
    row = read_row({**PAIR, "tools": [{}]})
    assert (row.tools, row.ignored) == (None, ("tools",))


def test_none_valued_keys_of_messages_are_dropped_at_any_depth():
    filled = {
        "role": "assistant",
        "content": None,
        "name": None,
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": None}}}],
    }
    row = read_row({"prompt": [{**user("p"), "tool_calls": None}], "completion": [filled]})
    assert row.prompt == [user("p")]
    assert row.completions == ([{"content": None, **CALL}],)


BAD_ROWS = {
    "missing_rejected": ({"prompt": "p", "chosen": "c"}, "has prompt and chosen but no rejected"),
    "missing_chosen": ({"rejected": "r"}, "has rejected but no chosen"),
    "missing_prompt": ({"completion": "c", "label": True}, "has completion and label but no prompt"),
    "missing_completion": ({"prompt": "p", "label": True}, "has prompt and label but no completion"),
    "missing_scores": (
        {"prompt": "p", "completions": ["a", "b"]},
        "has prompt and completions but no scores",
    ),
    "no_format": ({"prompt": "p", "text": "t"}, "has prompt, text, which makes none of the formats"),
    "no_value": ({"chosen": None}, "has no value, which makes none of the formats"),
    "unparsed": ("is a blank line", "is a blank line"),
    "prompt_type": (
        {**PAIR, "prompt": 3},
        "prompt is of type int; it must be text, a list of messages or a list of token ids",
    ),
    "chosen_type": ({**PAIR, "chosen": {"role": "assistant"}}, "chosen is of type dict; it must be text"),
    "list_of_texts": ({**PAIR, "prompt": ["p"]}, "prompt is of type list; it must be text"),
    "bools_are_no_ids": (
        {"prompt": [True], "chosen": [1], "rejected": [2]},
        "prompt is token ids; it must be",
    ),
    "ids_column_of_text": (
        {"prompt_ids": "p", "chosen": [1], "rejected": [2]},
        "prompt_ids is text; it must be a list of token ids",
    ),
    "empty_chosen": ({**PAIR, "chosen": ""}, "chosen is empty"),
    "blank_rejected": ({**PAIR, "rejected": " \n"}, "rejected is empty"),
    "empty_completion": ({**LABEL, "completion": ""}, "completion is empty"),
    "empty_answer": (
        {**CHAT, "chosen": [answer(" ")]},
        "chosen is empty: its last message says nothing",
    ),
    "empty_conversation": ({**CHAT, "chosen": []}, "chosen is an empty list"),
    "empty_prompt_conversation": ({**CHAT, "prompt": []}, "prompt is an empty list"),
    "empty_ids": ({"prompt": [1], "chosen": [], "rejected": [2]}, "chosen is an empty list"),
    "equal_pair": ({**PAIR, "chosen": "r"}, "chosen and rejected are equal"),
    "equal_conversations": ({**CHAT, "chosen": [answer("r")]}, "chosen and rejected are equal"),
    "equal_implicit": ({"chosen": "p c", "rejected": "p c"}, "chosen and rejected are equal"),
    "equal_ids": ({"prompt": [1], "chosen": [2], "rejected": [2]}, "chosen and rejected are equal"),
    "equal_ranking": ({**RANKING, "completions": ["a", "a"]}, "all completions are equal"),
    "mixed_sorts": (
        {**PAIR, "chosen": [answer("c")]},
        "prompt is text and chosen is a conversation; they must be of one sort",
    ),
    "mixed_implicit": (
        {"chosen": [answer("c")], "rejected": "r"},
        "chosen is a conversation and rejected is text; they must be of one sort",
    ),
    "mixed_ids": (
        {**PAIR, "rejected": [1]},
        "prompt is text and rejected is token ids; they must be of one sort",
    ),
    "implicit_ids": ({"chosen": [1], "rejected": [2]}, "has chosen and rejected as token ids but no prompt"),
    "foreign_prompt": (
        {"prompt": "x", "chosen": [user("p"), answer("c")], "rejected": [user("p"), answer("r")]},
        "prompt is text, and chosen is a conversation that does not begin with it",
    ),
    "label_of_one": ({**LABEL, "label": 1}, "label is 1; it must be true or false"),
    "label_of_text": ({**LABEL, "label": "yes"}, "label is 'yes'; it must be true or false"),
    "one_completion": (
        {**RANKING, "completions": ["a"], "scores": [1]},
        "a ranking needs at least 2 completions; it has 1",
    ),
    "completions_of_text": ({**RANKING, "completions": "ab"}, "completions is text; it must be a list"),
    "ranked_blank": ({**RANKING, "completions": ["a", ""]}, "completions[1] is empty"),
    "too_few_scores": ({**RANKING, "scores": [1]}, "scores must be a list of 2 numbers"),
    "infinite_score": ({**RANKING, "scores": [1, math.inf]}, "scores[1] is inf; it must be finite"),
    "equal_scores": ({**RANKING, "scores": [2, 2]}, "scores are all 2, so no completion is better than another"),
    "bool_score": ({**RANKING, "scores": [True, 0]}, "scores[0] is True; it must be a number"),
    "one_score": ({**PAIR, "chosen_score": 1}, "has chosen_score but no rejected_score"),
    "nan_pair_score": (
        {**PAIR, "chosen_score": math.nan, "rejected_score": 1},
        "chosen_score is nan; it must be finite",
    ),
    "text_score": (
        {**PAIR, "score_chosen": "high", "score_rejected": 1},
        "score_chosen is 'high'; it must be a number",
    ),
    "zero_weight": ({**PAIR, "weight": 0}, "weight is 0; it must be above 0"),
    "zero_undesirable_weight": (
        {**LABEL, "undesirable_weight": 0},
        "undesirable_weight is 0; it must be above 0",
    ),
    "infinite_weight": ({**PAIR, "weight": math.inf}, "weight is inf; it must be finite"),
    "bool_weight": ({**PAIR, "weight": True}, "weight is True; it must be a number"),
    "message_without_role": ({**CHAT, "prompt": [{"content": "p"}]}, "message 1 of prompt has no role"),
    "message_without_content": (
        {**CHAT, "chosen": [{"role": "assistant"}]},
        "message 1 of chosen has no content",
    ),
    "content_of_parts": (
        {**CHAT, "prompt": [user([{"type": "text"}])]},
        "the content of message 1 of prompt is a conversation; it must be text",
    ),
    "message_of_text": (
        {**CHAT, "prompt": [user("p"), "and"]},
        "message 2 of prompt is text; it must have a role and content",
    ),
    "last_message_of_user": (
        {**CHAT, "rejected": [answer("r"), user("x")]},
        "the last message of rejected is from 'user'; it must be the assistant's",
    ),
    "messages_of_text": ({"messages": "hello"}, "messages is text; it must be a list of messages"),
    "one_message": ({"messages": [answer("c")]}, "messages holds one message"),
    "unanswered_messages": (
        {"messages": [answer("c"), user("p")]},
        "the last message of completion is from 'user'",
    ),
    "tools_of_text": ({**CHAT, "tools": "calculator"}, "tools is not JSON"),
    "tools_of_names": ({**CHAT, "tools": ["calculator"]}, "tools must be a list of JSON schemas"),
}


@pytest.mark.parametrize(("raw", "reason"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row_says_why(raw, reason):
    with pytest.raises(BadRow) as raised:
        read_row(raw)
    assert str(raised.value).startswith(reason)

import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from prefopt.data.load import load_rows
from prefopt.data.row import Completion, Row
from prefopt.errors import DataError

from .tokenizers import TOKENIZERS, tokenizer

PAIRS = [{"prompt": f"Question {n}:", "chosen": " the sky", "rejected": " the sea"} for n in range(4)]


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def content(rows):
    """All of the rows but the name of their source."""
    return [(row.kind, row.number, row.prompt, row.completions, row.desirable, row.weight) for row in rows]


def test_golden_row(plain):
    raw = {"prompt": "Question:", "chosen": " the sky", "rejected": " the sea", "weight": 2}
    rows, _ = load_rows([raw], plain, max_length=64)
    ids = plain.convert_tokens_to_ids
    assert rows == [
        Row(
            kind="pairs",
            source="list",
            number=1,
            prompt=tuple(ids(["<s>", "Question", ":"])),
            completions=(
                Completion(tuple(ids(["Ġthe", "Ġsky", "</s>"])), (True,) * 3),
                Completion(tuple(ids(["Ġthe", "Ġsea", "</s>"])), (True,) * 3),
            ),
            weight=2.0,
        )
    ]
    assert rows[0].name == "list row 1"


def test_labels_carry_their_label(plain):
    raw = [{"prompt": "a", "completion": " b", "label": label} for label in (True, False)]
    rows, report = load_rows(raw, plain, max_length=64)
    assert [row.desirable for row in rows] == [True, False]
    assert report.kind == "labels"


CONVERSATIONS = [
    {
        "prompt": [user("2+2")],
        "chosen": [
            {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2}}}]},
            {"role": "tool", "content": "4", "name": "add"},
            answer("it is 4"),
        ],
        "rejected": [answer("it is 5")],
        "chosen_score": 1.0,
        "rejected_score": 0.5,
        "note": "x",
    },
    {"prompt": [user("hi")], "chosen": [answer("hello")], "rejected": [answer("no")], "weight": 0.5},
]


@pytest.mark.parametrize("raw", [PAIRS, CONVERSATIONS], ids=["text", "conversations"])
def test_every_source_gives_equal_rows(tmp_path, raw):
    own = tokenizer("adds_bos", "tools")
    jsonl, parquet = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    jsonl.write_text("\n".join(map(json.dumps, raw)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_columns_of_all(raw)), parquet)
    dataset = datasets.Dataset.from_list(_columns_of_all(raw))
    dataset.save_to_disk(tmp_path / "saved")
    expected, report = load_rows(raw, own, max_length=64)
    assert report.num_kept == len(raw)
    for source in (jsonl, parquet, dataset, tmp_path / "saved"):
        rows, other = load_rows(source, own, max_length=64)
        assert content(rows) == content(expected)
        assert {**other.as_dict(), "source": "list"} == report.as_dict()


def _columns_of_all(raw):
    return [{name: row.get(name) for name in dict.fromkeys(key for row in raw for key in row)} for row in raw]


def test_implicit_prompts_give_the_rows_of_explicit_ones(plain, chat):
    whole = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in CONVERSATIONS]
    explicit = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in CONVERSATIONS]
    whole[0]["chosen"], explicit[0]["chosen"] = (messages[-1:] for messages in (explicit[0]["chosen"],) * 2)
    whole[0]["chosen"] = explicit[0]["prompt"] + explicit[0]["chosen"]
    assert load_rows(whole, chat, max_length=64)[0] == load_rows(explicit, chat, max_length=64)[0]
    joined = [{"chosen": "Question: the sky", "rejected": "Question: a sea"}]
    split = [{"prompt": "Question:", "chosen": " the sky", "rejected": " a sea"}]
    assert load_rows(joined, plain, max_length=64)[0] == load_rows(split, plain, max_length=64)[0]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", [None, "chatml", "llama3", "plain"])
def test_pretokenised_rows_equal_the_text_they_came_from(name, template):
    own = tokenizer(name, template)
    raw = PAIRS
    if template:
        raw = [{"prompt": [user("hi")], "chosen": [answer("hello")], "rejected": [answer("no")]}]
    rows, _ = load_rows(raw, own, max_length=12)
    ids = [
        {
            "prompt_input_ids": list(row.prompt),
            "chosen_input_ids": list(row.completions[0].ids),
            "rejected_input_ids": list(row.completions[1].ids),
        }
        for row in rows
    ]
    assert load_rows(ids, own, max_length=12)[0] == rows


def test_the_first_bad_row_stops_and_is_named(plain):
    raw = [PAIRS[0], {"prompt": "p", "chosen": "c"}, {"prompt": "q"}]
    with pytest.raises(DataError) as raised:
        load_rows(raw, plain, max_length=64)
    assert str(raised.value) == "list row 2: has prompt and chosen but no rejected"


def test_skipped_rows_are_counted_with_their_reasons(tmp_path, plain):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(PAIRS[0]), "", json.dumps({"prompt": "p"}), json.dumps(PAIRS[1]), "{"]
    path.write_text("\n".join(lines))
    rows, report = load_rows(path, plain, max_length=64, on_bad_row="skip")
    assert [row.number for row in rows] == [1, 4]
    assert (report.num_rows, report.num_kept) == (5, 2)
    assert list(report.dropped) == [2, 3, 5]
    assert report.dropped[2] == "is a blank line"


def test_a_slice_keeps_the_numbers_and_the_name(tmp_path, plain):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, PAIRS)))
    rows, report = load_rows(f"{path}[-2:]", plain, max_length=64)
    assert [row.name for row in rows] == [f"{path}[-2:] row 3", f"{path}[-2:] row 4"]
    assert report.num_rows == 2


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_an_empty_source_is_an_error(tmp_path, plain, on_bad_row):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n")
    with pytest.raises(DataError, match=r"rows\.jsonl has no rows"):
        load_rows(path, plain, max_length=64, on_bad_row=on_bad_row)
    with pytest.raises(DataError, match="list has no rows"):
        load_rows([], plain, max_length=64, on_bad_row=on_bad_row)


def test_nothing_left_is_an_error_with_the_first_reason(plain):
    with pytest.raises(DataError, match="list has no usable row; row 1, the first of 2: chosen is empty"):
        load_rows([{**PAIRS[0], "chosen": ""}, {}], plain, max_length=64, on_bad_row="skip")


def test_rows_of_another_kind_than_the_first_good_row_are_bad(plain):
    label = {"prompt": "p", "completion": "c", "label": True}
    raw = [{"prompt": "p"}, PAIRS[0], label]
    _, report = load_rows(raw, plain, max_length=64, on_bad_row="skip")
    assert report.kind == "pairs"
    assert report.dropped[3] == "is a row of labels, while row 2 is one of pairs"


def test_ignored_columns_are_listed_once_in_order(plain):
    raw = [{**PAIRS[0], "id": 1, "source": None}, {**PAIRS[1], "id": 2, "group": "x", "weight": 1}]
    _, report = load_rows(raw, plain, max_length=64)
    assert report.ignored_columns == ("id", "group")


def test_token_counts_are_those_of_the_kept_rows(plain):
    rows, report = load_rows([*PAIRS, {"prompt": "p"}], plain, max_length=6, on_bad_row="skip")
    assert report.num_prompt_tokens == sum(len(row.prompt) for row in rows) == 12
    assert report.num_completion_tokens == sum(len(c.ids) for row in rows for c in row.completions) == 24


def test_truncated_rows_are_counted_and_lose_their_end_token(plain):
    raw = [PAIRS[0], {"prompt": "Q", "chosen": " the sky is blue", "rejected": " no"}]
    rows, report = load_rows(raw, plain, max_length=5)
    assert report.truncated == (1, 2)
    assert [len(row.prompt) for row in rows] == [2, 1]
    chosen, rejected = rows[1].completions
    assert len(chosen.ids) == 4
    assert plain.eos_token_id not in chosen.ids
    assert rejected.ids[-1] == plain.eos_token_id
    assert load_rows(raw, plain, max_length=64)[1].truncated == ()


def test_truncation_does_not_depend_on_other_rows(plain):
    long = {"prompt": "the " * 9, "chosen": " a" * 30, "rejected": " b"}
    alone, _ = load_rows([PAIRS[0]], plain, max_length=8)
    beside, _ = load_rows([PAIRS[0], long], plain, max_length=8)
    assert beside[0] == alone[0]


def test_shifted_rows_are_listed():
    own = tokenizer("merges_across_words")
    raw = [
        {"prompt": "Answer:", "chosen": "!", "rejected": "?"},
        {"prompt": "Answer:", "chosen": " the sky", "rejected": "?"},
    ]
    rows, report = load_rows(raw, own, max_length=64)
    assert report.shifted == (2,)
    assert own.decode(rows[1].prompt) == "Answer"
    assert own.decode(rows[1].completions[0].ids) == ": the sky</s>"


def reason(raw, own, max_length=64):
    rows = [PAIR_OF[type(raw["prompt"])], raw]
    _, report = load_rows(rows, own, max_length=max_length, on_bad_row="skip")
    return report.dropped.get(2)


PAIR_OF = {
    str: {"prompt": "a", "chosen": " b", "rejected": " c"},
    list: {"prompt": [user("a")], "chosen": [answer("b")], "rejected": [answer("c")]},
}


def test_completions_equal_after_truncation_are_refused_for_that_reason(plain):
    raw = {"prompt": "a", "chosen": " the sky is blue", "rejected": " the sky is black"}
    assert reason(raw, plain) is None
    assert reason(raw, plain, 3) == "chosen and rejected are equal after truncation to 3 tokens"


def test_rankings_equal_after_truncation_are_refused(plain):
    good = {"prompt": "a", "completions": [" b", " c"], "scores": [1, 2]}
    raw = {"prompt": "a", "completions": [" the sky is a", " the sky is b"], "scores": [1, 2]}
    _, report = load_rows([good, raw], plain, max_length=4, on_bad_row="skip")
    assert report.dropped == {2: "all completions are equal after truncation to 4 tokens"}


def test_completions_that_the_template_makes_equal_are_refused():
    own = tokenizer("adds_bos", "stripping")
    raw = {"prompt": [user("a")], "chosen": [answer("b")], "rejected": [answer("b ")]}
    assert reason(raw, own) == "chosen and rejected are equal once tokenised"


def test_a_completion_whose_scored_turn_is_cut_away_is_refused(chat):
    raw = {
        "prompt": [user("a")],
        "chosen": [user("b " * 40), answer("c")],
        "rejected": [answer("d")],
    }
    assert reason(raw, chat, 128) is None
    assert reason(raw, chat, 32) == "a completion has no scored token after truncation to 32 tokens"


def test_a_template_error_drops_its_row_only():
    refusing = "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    own = tokenizer("adds_bos", "{% for m in messages %}" + refusing + "{{ m.content }}</s>{% endfor %}")
    raw = {
        "prompt": [{"role": "system", "content": "s"}, user("a")],
        "chosen": [answer("b")],
        "rejected": [answer("c")],
    }
    assert reason(raw, own) == "the chat template fails: no system"


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_tokenizer_without_template_fails_for_the_whole_source(plain, on_bad_row):
    with pytest.raises(DataError, match=r"^the rows are conversations, and the tokenizer has no chat"):
        load_rows(CONVERSATIONS, plain, max_length=64, on_bad_row=on_bad_row)


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_max_length_holds_a_prompt_and_a_completion(plain, max_length):
    with pytest.raises(DataError, match=f"max_length is {max_length}; it must hold"):
        load_rows(PAIRS, plain, max_length=max_length)


def test_every_report_is_json(plain):
    _, report = load_rows([*PAIRS, {}], plain, max_length=6, on_bad_row="skip")
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()


def test_the_same_completion_with_two_scores_is_a_bad_row():
    row = {"prompt": "a", "completions": [" b", " b", " c"], "scores": [3, 2, 1]}
    with pytest.raises(DataError, match="the same completion stands there twice, with different scores"):
        load_rows([row], tokenizer("adds_bos"), max_length=64)


def test_text_that_is_no_unicode_is_a_bad_row():
    good = {"prompt": "a", "chosen": " b", "rejected": " c"}
    rows, report = load_rows(
        [good, {**good, "chosen": "\ud83d"}], tokenizer("adds_bos"), max_length=64, on_bad_row="skip"
    )
    assert len(rows) == 1
    assert "the tokenizer fails on its text" in report.dropped[2]

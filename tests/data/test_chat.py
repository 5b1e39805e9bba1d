import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prefopt.data.bad_row import BadRow
from prefopt.data.chat import ChatTemplate
from prefopt.errors import DataError

from .tokenizers import FORGETTING, REWRITING, SKIPPING, TEMPLATES, TOKENIZERS, UNENDED, tokenizer

TEXT = st.text("ab AQ:?.\n\tthe 1éλ😀", max_size=20)
SAID = TEXT.filter(str.strip)
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def split(template, prompt, *completions, name="without_bos", tools=None):
    return ChatTemplate(tokenizer(name, template)).split(prompt, completions, tools)


def texts(template, ids, name="without_bos"):
    own = tokenizer(name, template)
    return "|".join(own.decode([token]) for token in ids)


def scored_text(template, ids, flags):
    """What is scored as it is, what is context in brackets."""
    own = tokenizer("without_bos", template)
    pieces, start = [], 0
    for index in range(1, len(ids) + 1):
        if index == len(ids) or flags[index] != flags[start]:
            text = own.decode(ids[start:index])
            pieces.append(text if flags[start] else f"[{text}]")
            start = index
    return "".join(pieces)


_HELLO = "u|ser|\n|h|ell|o"
GOLDEN = {
    "chatml": (
        f"<|im_start|>|{_HELLO}|<|im_end|>|\n|<|im_start|>|a|ssistant|\n",
        "t|h|e| sky|<|im_end|>",
    ),
    "default_system": (
        f"<|im_start|>|system|\n|you| are| helpful|<|im_end|>|\n|<|im_start|>|{_HELLO}|<|im_end|>|\n|"
        "<|im_start|>|a|ssistant|\n",
        "t|h|e| sky|<|im_end|>",
    ),
    # two line ends are one token at the end of the prompt, and two before an answer
    "llama3": (
        "<s>|<|header|>|u|ser|<|/header|>|\n|\n|h|ell|o|<|eot|>|<|header|>|a|ssistant|<|/header|>",
        "\n|\n|t|h|e| sky|<|eot|>",
    ),
    "gemma": (
        f"<bos>|<turn>|{_HELLO}|<end_of_turn>|\n|<turn>|m|o|d|el|\n",
        "t|h|e| sky|<end_of_turn>",
    ),
    # the thoughts that its generation prompt opens are not in the answer
    "think": (
        f"<|im_start|>|{_HELLO}|<|im_end|>|\n|<|im_start|>|a|ssistant|\n",
        "t|h|e| sky|<|im_end|>",
    ),
    "plain": ("u|ser|:| hello|\n|a|ssistant|:", " the| sky|</s>"),
    "stripping": (
        f"<|im_start|>|{_HELLO}|<|im_end|>|\n|<|im_start|>|a|ssistant|\n",
        "t|h|e| sky|<|im_end|>",
    ),
    "phi": (f"<turn>|{_HELLO}|<|end|>|\n|<turn>|a|ssistant|\n", "t|h|e| sky|<|end|>"),
    "tools": (
        f"<|im_start|>|{_HELLO}|<|im_end|>|\n|<|im_start|>|a|ssistant|\n",
        "t|h|e| sky|<|im_end|>",
    ),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_golden_tokens(template):
    prompt, (completion,), (scored,), shifted = split(template, [user("hello")], [answer("the sky")])
    assert (texts(template, prompt), texts(template, completion)) == GOLDEN[template]
    assert all(scored)
    assert shifted == (template in ("think", "llama3"))


def test_an_answer_that_thinks_keeps_the_whole_generation_prompt():
    prompt, _, _, shifted = split("think", [user("hello")], [answer("<think>\nhm</think>the sky")])
    assert tokenizer("without_bos", "think").decode(prompt).endswith("assistant\n<think>\n")
    assert not shifted


def test_unlike_generation_prompts_share_what_all_answers_share():
    template = ChatTemplate(tokenizer("without_bos", "think"))
    prompt, own, _, shifted = template.split(
        [user("hello")], [[answer("<think>\nhm</think>yes")], [answer("no")]], None
    )
    decode = tokenizer("without_bos", "think").decode
    assert decode(prompt).endswith("<|im_start|>assistant\n")
    assert [decode(ids) for ids in own] == ["<think>\nhm</think>yes<|im_end|>", "no<|im_end|>"]
    assert shifted


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=8, deadline=None)
@given(st.lists(SAID, min_size=1, max_size=3), st.lists(SAID, min_size=1, max_size=3))
def test_prompt_and_completion_join_to_the_render_up_to_the_end_of_turn(name, template, said, answers):
    own = tokenizer(name, template)
    prompt = [(user if index % 2 == 0 else answer)(text) for index, text in enumerate(said)]
    ids, parts, flags, _ = split(template, prompt, *[[answer(text)] for text in answers], name=name)
    _, end = TEMPLATES[template]
    for text, part, scored in zip(answers, parts, flags, strict=True):
        render = own.apply_chat_template([*prompt, answer(text)], tokenize=False)
        if end is None:
            whole = [*own(render.removesuffix("\n"), add_special_tokens=False)["input_ids"], 2]
        else:
            until = render[: render.rindex(end) + len(end)]
            whole = own(until, add_special_tokens=False)["input_ids"]
        supplied = len(ids) == 1 and ids[0] != whole[0]
        assert (part if supplied else ids + part) == whole
        assert part.count(whole[-1]) == 1
        assert len(part) > 1
        assert scored == [True] * len(part)


@pytest.mark.parametrize("name", ["merges_across_words", "prefixes_space"])
@settings(max_examples=30, deadline=None)
@given(SAID, SAID)
def test_merges_at_the_boundary_of_a_plain_template_are_no_rewriting(name, said, text):
    ids, (part,), _, shifted = split("plain", [user(said)], [answer(text)], name=name)
    own = tokenizer(name, "plain")
    alone = own(f"user: {said}\nassistant:", add_special_tokens=False)["input_ids"]
    assert shifted == (ids != alone)
    assume(ids[0] == alone[0])
    whole = own(f"user: {said}\nassistant: {text}", add_special_tokens=False)["input_ids"]
    assert ids + part == [*whole, 2]


@pytest.mark.parametrize("template", TEMPLATES)
def test_turns_of_others_inside_a_completion_are_context(template):
    completion = [answer("one"), user("two"), answer("three")]
    _, (ids,), (flags,), _ = split(template, [user("hello")], completion)
    header, end, after = {
        "llama3": ("<|header|>{}<|/header|>", "<|eot|>", ""),
        "gemma": ("<turn>{}\n", "<end_of_turn>", "\n"),
        "phi": ("<turn>{}\n", "<|end|>", "\n"),
        "plain": ("{}:", "", "\n"),
    }.get(template, ("<|im_start|>{}\n", "<|im_end|>", "\n"))
    blank = {"plain": " ", "llama3": "\n\n"}.get(template, "")
    opened, asked = header.format("model" if template == "gemma" else "assistant"), header.format("user")
    context = f"[{after}{asked}{blank}two{end}{after}{opened}]"
    assert scored_text(template, ids, flags) == f"{blank}one{end}{context}{blank}three{end or '</s>'}"


def test_a_completion_may_begin_with_the_turn_of_another():
    completion = [{"role": "tool", "content": "4"}, answer("it is 4")]
    prompt, (ids,), (flags,), _ = split("chatml", [user("2+2"), answer("add")], completion)
    assert tokenizer("without_bos", "chatml").decode(prompt).endswith("add<|im_end|>\n<|im_start|>")
    context = "[tool\n4<|im_end|>\n<|im_start|>assistant\n]"
    assert scored_text("chatml", ids, flags) == context + "it is 4<|im_end|>"


def test_a_tool_call_ends_in_its_own_token():
    completion = [CALL, {"role": "tool", "content": "4"}, answer("it is 4")]
    _, (ids,), (flags,), _ = split("tools", [user("2+2")], completion)
    assert scored_text("tools", ids, flags) == (
        '[{"function": {"name": "add"}}]<|eom|>'
        "[\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\n]it is 4<|im_end|>"
    )
    _, (ids,), (flags,), _ = split("tools", [user("2+2")], [CALL])
    assert scored_text("tools", ids, flags) == '[{"function": {"name": "add"}}]<|eom|>'
    assert all(flags)


def test_tools_reach_the_template():
    tools = [{"type": "function", "function": {"name": "add"}}]
    prompt, _, _, _ = split("tools", [user("2+2")], [answer("4")], tools=tools)
    bare, _, _, _ = split("tools", [user("2+2")], [answer("4")])
    decode = tokenizer("without_bos", "tools").decode
    assert decode(prompt).startswith('<|im_start|>system\n[{"type": "function"')
    assert decode(prompt).endswith(decode(bare))


@pytest.mark.parametrize("template", [name for name, (_, end) in TEMPLATES.items() if end])
def test_an_answer_that_brings_its_end_token_gets_no_second(template):
    end = TEMPLATES[template][1]
    assert split(template, [user("a")], [answer("b" + end)]) == split(template, [user("a")], [answer("b")])


def test_an_answer_that_brings_its_eos_to_a_plain_template_gets_no_second():
    assert split("plain", [user("a")], [answer("b</s>")]) == split("plain", [user("a")], [answer("b")])


def test_an_end_token_that_is_not_marked_special_is_found():
    own = TOKENIZERS["without_bos"]()
    own.add_tokens(["[END]"])
    own.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}[END]\n{% endfor %}"
    _, (ids,), _, _ = ChatTemplate(own).split([user("a")], [[answer("b")]], None)
    assert own.convert_ids_to_tokens(ids)[-1] == "[END]"


def test_a_template_that_rewrites_earlier_turns_is_a_bad_row():
    thought = [user("a"), answer("<think>b</think>c")]
    with pytest.raises(BadRow, match="renders the prompt differently once an answer follows"):
        split(REWRITING, thought, [user("d"), answer("e")])
    with pytest.raises(BadRow, match="renders an answer differently once another message follows"):
        split(REWRITING, thought[:1], [*thought[1:], user("d"), answer("e")])
    _, _, _, shifted = split(REWRITING, [*thought, user("d")], [answer("e")])
    assert not shifted


def test_a_rewritten_turn_in_the_middle_of_a_completion_is_a_bad_row():
    content = "{{ m.content if loop.last else 'gone' }}"
    forgetful = "{%- for m in messages %}{{ m.role }}: " + content + "\n{% endfor -%}"
    with pytest.raises(BadRow, match="renders an answer differently"):
        split(forgetful, [user("gone")], [answer("b"), user("gone"), answer("e")])


def test_an_answer_without_an_end_of_turn_is_a_bad_row():
    with pytest.raises(BadRow, match="puts no end-of-turn token after an answer"):
        split(UNENDED, [user("a")], [CALL])
    with pytest.raises(BadRow, match="puts no end-of-turn token after an answer"):
        split(UNENDED, [user("a")], [{**CALL, "content": "<|end|>\n"}])


def test_an_answer_that_the_template_leaves_out_is_a_bad_row():
    with pytest.raises(BadRow, match="leaves an answer out"):
        split(SKIPPING, [user("a")], [CALL])


def test_a_rewritten_turn_of_another_inside_a_completion_is_a_bad_row():
    with pytest.raises(BadRow, match="renders the prompt differently once an answer follows"):
        split(FORGETTING, [user("a"), answer("b")], [{"role": "tool", "content": "c"}, answer("d")])


def test_a_template_error_is_a_bad_row():
    picky = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn, please') }}{% endif %}"
    with pytest.raises(BadRow, match="the chat template fails: no system turn, please"):
        split(
            picky + TEMPLATES["chatml"][0],
            [{"role": "system", "content": "s"}, user("a")],
            [answer("b")],
        )


def test_a_template_that_fails_on_everything_is_an_error_of_the_source():
    with pytest.raises(DataError, match="the chat template fails: never, on a plain question and answer"):
        split("{{ raise_exception('never') }}", [user("a")], [answer("b")])


def test_a_template_that_leaves_answers_out_is_an_error_of_the_source():
    with pytest.raises(DataError, match="leaves out the assistant's answer"):
        split("{{ messages[0].content }}", [user("a")], [answer("b")])


def test_a_tokenizer_without_template_is_an_error_of_the_source():
    with pytest.raises(DataError, match="rows are conversations, and the tokenizer has no chat template"):
        ChatTemplate(tokenizer("adds_bos"))


def test_a_prompt_that_merges_away_is_replaced_by_bos():
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    name = "merges_across_words"
    prompt, (ids,), _, shifted = split(template, [user(":")], [answer(" the sky")], name=name)
    assert texts(template, prompt, name) == "<s>"
    assert texts(template, ids, name) == ": the sky|</s>"
    assert shifted

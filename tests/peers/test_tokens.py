"""From text to token ids: boundaries, ends, what is dropped and cut, and padding that nobody sees."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.data.load import load_rows
from prefopt.data.trees import grow_rows
from prefopt.engine.logps import Scorer
from prefopt.run import run
from tests.data.test_chat import GOLDEN
from tests.data.tokenizers import TEMPLATES, TOKENIZERS, tokenizer
from tests.models import tiny_model
from tests.peers import runs
from tests.peers.rows import even_rows

AWKWARD = [
    ("Question:", " the sky"),
    ("Answer", ": the sky"),
    (":", " the sky"),
    ("", "the sky"),
    ("a ", " b"),
    ("a\n", "\nb"),
    ("\n\nHuman: how are you?\n\nAssistant:", " I am fine"),
    ("caf", "\u00e9 \u03bb"),
    ("\U0001f600", "\U0001f600\U0001f600"),
    ("9 * 2 =", "18"),
    ("the", "re once"),
    ("x", " "[:0] + "\t.\t?"),
]


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def demonstration(prompt, completion, template):
    if template is None:
        return {"prompt": prompt, "completion": completion}
    return {"prompt": [user(prompt or "hm")], "completion": [answer(completion)]}


def whole(own, raw, template):
    """What the tokenizer makes of the full text, up to the one token that ends the answer."""
    if template is None:
        ids = own(raw["prompt"] + raw["completion"])["input_ids"]
        return [*(ids[:-1] if ids[-1] == own.eos_token_id else ids), own.eos_token_id]
    text = own.apply_chat_template([*raw["prompt"], *raw["completion"]], tokenize=False)
    end = TEMPLATES[template][1]
    if end is None:
        return [*own(text.removesuffix("\n"), add_special_tokens=False)["input_ids"], own.eos_token_id]
    return own(text[: text.rindex(end) + len(end)], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("template", [None, *TEMPLATES])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_12_prompt_and_completion_are_the_tokens_of_the_full_render(name, template):
    own = tokenizer(name, template)
    raw = [demonstration(*text, template) for text in AWKWARD]
    rows, report = load_rows(raw, own, max_length=512, on_bad_row="skip")
    for number in report.dropped:  # unknown characters beside each other are one token
        text = raw[number - 1]
        assert own(text["prompt"])["input_ids"] == own(text["prompt"] + text["completion"])["input_ids"]
    assert len(rows) >= len(raw) - 1
    shifted = []
    for row in rows:
        source = raw[row.number - 1]
        truth = whole(own, source, template)
        assert joined(own, row, truth) == truth
        if list(row.prompt) != alone(own, source, template):
            shifted.append(row.number)
    assert list(report.shifted) == shifted


def joined(own, row, truth):
    """The ids of prompt and completion, without what stands for an empty prompt."""
    stand_in = own.eos_token_id if own.bos_token_id is None else own.bos_token_id
    ids = [*row.prompt, *row.completions[0].ids]
    return ids[1:] if row.prompt == (stand_in,) and truth[0] != stand_in else ids


def alone(own, raw, template):
    """The prompt as it is tokenised without its completion."""
    if template is not None:
        opened = own.apply_chat_template(raw["prompt"], tokenize=False, add_generation_prompt=True)
        return own(opened, add_special_tokens=False)["input_ids"]
    if not raw["prompt"]:
        return [own.eos_token_id if own.bos_token_id is None else own.bos_token_id]
    ids = own(raw["prompt"])["input_ids"]
    return ids[:-1] if own("a")["input_ids"][-1] == own.eos_token_id else ids


def test_12_shifted_rows_are_counted_and_listed_wherever_the_user_looks(
    prefopt, write_config, write_rows, model_folder, tmp_path
):
    shutil.copytree(model_folder, tmp_path / "merging")
    words = TOKENIZERS["merges_across_words"]()
    tiny_model("llama", vocab_size=len(words)).save_pretrained(tmp_path / "merging")
    words.save_pretrained(tmp_path / "merging")
    rows = write_rows(
        [
            {"prompt": "Answer:", "chosen": "!", "rejected": "?"},
            {"prompt": "Answer:", "chosen": " the sky", "rejected": "?"},
        ]
    )
    outcome = prefopt("train", write_config(rows, model=str(tmp_path / "merging")))
    assert outcome.code == 0, outcome.err
    assert "1 row with a shifted prompt boundary (2)" in outcome.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["data"]["train"]["shifted"] == [2]


def test_12_a_real_tokenizer_with_its_own_habits(shared):
    own = AutoTokenizer.from_pretrained(shared / "models" / "stories260K")
    raw = [demonstration(*text, None) for text in AWKWARD]
    rows, _ = load_rows(raw, own, max_length=512)
    for row, source in zip(rows, raw, strict=True):
        truth = whole(own, source, None)
        assert joined(own, row, truth) == truth


@pytest.mark.parametrize("template", TEMPLATES)
def test_13_golden_tokens_with_one_end_and_no_default_system_prompt_twice(template):
    own = tokenizer("without_bos", template)
    sides = ("prompt", "chosen", "rejected")
    messages = [[user("hello")], [answer("the sky")], [answer("the sea")]]
    rows, _ = load_rows([dict(zip(sides, messages, strict=True))], own, max_length=64)

    def told(ids):
        return "|".join(own.decode([token]) for token in ids)

    chosen, rejected = rows[0].completions
    assert (told(rows[0].prompt), told(chosen.ids)) == GOLDEN[template]
    end = own.convert_tokens_to_ids(TEMPLATES[template][1] or own.eos_token)
    for completion in (chosen, rejected):
        assert completion.ids.count(end) == 1
        assert completion.ids[-1] == end
        assert completion.scored[-1]
    assert told(rows[0].prompt).count("system") == (template == "default_system")
    with_own = [{"role": "system", "content": "be brief"}, user("hello")]
    rows, _ = load_rows([{**dict(zip(sides, messages, strict=True)), "prompt": with_own}], own, max_length=64)
    text = own.decode(rows[0].prompt)
    assert text.count("be brief") == 1
    assert "you are helpful" not in text


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("ending", ["", "</s>", "</s></s>"])
def test_13_plain_text_ends_in_one_eos_whoever_wrote_it(name, ending):
    own = tokenizer(name)
    texts = [{"prompt": "Question:", "completion": " the sky" + end} for end in ("", ending)]
    (bare, row), _ = load_rows(texts, own, max_length=64)
    assert (row.prompt, row.completions) == (bare.prompt, bare.completions)
    (completion,) = row.completions
    assert completion.ids.count(own.eos_token_id) == 1
    assert completion.ids[-1] == own.eos_token_id
    truth = whole(own, texts[0], None)
    assert joined(own, row, truth) == truth


TEXT = st.sampled_from(["", " ", "\n", " a", " the sky is blue", " so" * 20, "</s>", "<s>"])


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=6), st.integers(2, 24))
def test_14_every_row_that_is_kept_has_scored_tokens_and_every_other_is_listed(texts, max_length):
    own = tokenizer("adds_bos")
    texts = [("a", "b", "c"), *texts]
    raw = [dict(zip(("prompt", "chosen", "rejected"), text, strict=True)) for text in texts]
    rows, report = load_rows(raw, own, max_length=max_length, on_bad_row="skip")
    kept = [row.number for row in rows]
    assert sorted([*kept, *report.dropped]) == list(range(1, len(raw) + 1))
    assert report.num_kept == len(kept)
    assert all(report.dropped.values())
    for row in rows:
        assert all(completion.num_scored > 0 for completion in row.completions)
        assert len(row.prompt) + max(len(own.ids) for own in row.completions) <= max_length
    uncut, _ = load_rows([raw[number - 1] for number in kept], own, max_length=10**6)
    shorter = [
        number
        for number, one, other in zip(kept, rows, uncut, strict=True)
        if one.completions != other.completions or one.prompt != other.prompt
    ]
    assert list(report.truncated) == shorter


def test_14_no_loss_is_given_a_completion_without_tokens(model_folder, pair_rows, tmp_path):
    """A turn of the user that fills max_length would leave nothing of the answer; run.json lists it."""
    seen = []

    class Watching(runs.REGISTRY.losses["simpo"]):
        def values(self, batch):
            seen.extend([*batch.chosen.lengths.tolist(), *batch.rejected.lengths.tolist()])
            return super().values(batch)

    chats = [
        {"prompt": [user(row["prompt"])], "chosen": [answer(row["chosen"])], "rejected": [answer(row["rejected"])]}
        for row in pair_rows
    ]
    chats[2]["chosen"] = [user("so " * 60), answer("yes")]
    chats[5]["prompt"] = [user("so " * 60)]
    chats.append({**chats[0], "chosen": [answer("")]})
    changes = {"data": {"on_bad_row": "skip", "max_length": 48}, "output_dir": str(tmp_path / "out")}
    config = runs.settings({"model": {"name": str(model_folder)}, "training": {"batch_size": 9}}, changes)
    record = run(config, Watching(), train=chats)
    report = record["data"]["train"]
    assert set(report["dropped"]) == {"3", "10"}
    assert "no scored token after truncation" in report["dropped"]["3"]
    assert report["truncated"] == [6]
    assert len(seen) >= 16
    assert min(seen) > 0


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kind", ["pairs", "labels", "rankings", "demonstrations"])
def test_22_token_ids_give_the_rows_that_their_text_gives(name, kind):
    own = tokenizer(name)
    columns = {"pairs": ("chosen", "rejected"), "rankings": ("completions",)}.get(kind, ("completion",))
    raw = [{"prompt": "Question:", "chosen": " the sky", "rejected": " a sea", "weight": 2.0}]
    if kind != "pairs":
        raw = [{"prompt": "Question:", "completion": " the sky", "label": True}]
    if kind == "rankings":
        raw = [{"prompt": "Question:", "completions": [" the sky", " a sea", " no"], "scores": [3, 1, 2]}]
    if kind == "demonstrations":
        raw[0].pop("label")
    rows, _ = load_rows(raw, own, max_length=9)
    ids = []
    for row, source in zip(rows, raw, strict=True):
        told = [list(completion.ids) for completion in row.completions]
        values = [told] if kind == "rankings" else told
        kept = {key: value for key, value in source.items() if key not in ("prompt", *columns)}
        own_columns = {f"{column}_ids": value for column, value in zip(columns, values, strict=True)}
        ids.append({**kept, "prompt_ids": list(row.prompt), **own_columns})
    assert load_rows(ids, own, max_length=9)[0] == rows


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_22_a_run_on_token_ids_is_the_run_on_their_text(train, model_folder, pair_rows, loss):
    rows, _ = load_rows(pair_rows, AutoTokenizer.from_pretrained(model_folder), max_length=64)
    ids = [
        {
            "prompt_input_ids": list(row.prompt),
            "chosen_input_ids": list(row.completions[0].ids),
            "rejected_input_ids": list(row.completions[1].ids),
        }
        for row in rows
    ]
    from_text, from_ids = (train(source, loss=loss) for source in (pair_rows, ids))
    assert from_ids.steps == from_text.steps
    assert all(torch.equal(weight, from_text.weights[name]) for name, weight in from_ids.weights.items())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_25_log_probs_are_those_of_a_batch_padded_on_either_side(side, architecture):
    """The truth: all rows side by side through transformers, padded and masked, on the left or on the right."""
    model = tiny_model(architecture, dtype=torch.float64)
    rows = even_rows("pairs")
    slots = [(row.prompt, own) for row in rows for own in row.completions]
    width = max(len(prompt) + len(own.ids) for prompt, own in slots)
    ids, mask = torch.full((len(slots), width), 63), torch.zeros(len(slots), width, dtype=torch.long)
    starts = []
    for number, (prompt, own) in enumerate(slots):
        text = torch.tensor([*prompt, *own.ids])
        start = width - len(text) if side == "left" else 0
        ids[number, start : start + len(text)], mask[number, start : start + len(text)] = text, 1
        starts.append(start + len(prompt))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)
    truth = torch.cat(
        [
            logits[number, start + place - 1, own.ids[place]].view(1)
            for number, (start, (_, own)) in enumerate(zip(starts, slots, strict=True))
            for place, scored in enumerate(own.scored)
            if scored
        ]
    )
    for packed in (True, False):
        found = Scorer(model, packed=packed).score(
            grow_rows([replace(row, mismatched=()) for row in rows]), tokens_per_microbatch=10**6
        )
        torch.testing.assert_close(found.values, truth, rtol=0, atol=1e-6)


def test_25_what_stands_in_the_padding_is_never_seen():
    scorer = Scorer(tiny_model("llama"), packed=False)
    rows = [replace(row, mismatched=()) for row in even_rows("pairs")]
    trees = [tree for part in scorer.cut(grow_rows(rows), 10**6) for tree in part]
    layout = scorer.lay_out(trees)
    lengths = [len(tree.prompt) + len(own.ids) - 1 for tree in trees for _, own in tree.branches]
    padding = torch.arange(layout.input_ids_RT.shape[1]) >= torch.tensor(lengths)[:, None]
    assert padding.any()
    with torch.no_grad():
        truth = scorer(layout)
        for pad in (5, 63):
            other = replace(layout, input_ids_RT=layout.input_ids_RT.masked_fill(padding, pad))
            assert torch.equal(scorer(other), truth)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_25_a_tokenizers_padding_side_and_pad_token_change_no_run(train, model_folder, pair_rows, tmp_path, loss):
    plain = train(pair_rows, loss=loss)
    for number, (side, token) in enumerate((("left", 5), ("right", 7), ("left", None))):
        place = tmp_path / f"padding {number}"
        shutil.copytree(model_folder, place)
        words = AutoTokenizer.from_pretrained(place)
        words.padding_side = side
        words.pad_token = words.eos_token if token is None else words.convert_ids_to_tokens(token)
        words.save_pretrained(place)
        model = AutoModelForCausalLM.from_pretrained(place)
        model.config.pad_token_id = words.pad_token_id
        model.save_pretrained(place)
        assert train(pair_rows, loss=loss, model={"name": str(place)}).steps == plain.steps

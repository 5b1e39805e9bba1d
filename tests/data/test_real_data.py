"""Real preference data through a real tokenizer, end to end."""

import pytest
from transformers import AutoTokenizer

from prefopt.data.load import load_rows
from prefopt.data.mismatch import add_mismatched
from prefopt.data.sources import row_kind

from .tokenizers import TEMPLATES

FILES = {
    "blimp_pairs": ("pairs", 2679),
    "dpo_en_demo": ("pairs", 299),
    "gsm8k_solutions_pairs": ("pairs", 2307),
    "gsm8k_solutions_unpaired": ("labels", 3000),
    "hh_harmless_test": ("pairs", 2299),
    "kto_en_demo_unpaired": ("labels", 299),
}


@pytest.fixture(scope="module")
def stories(shared):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260K")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATES["chatml"][0]
    return tokenizer


@pytest.mark.parametrize("name", FILES)
def test_every_row_loads(shared, stories, name):
    kind, num_rows = FILES[name]
    path = shared / "data" / f"{name}.jsonl"
    assert row_kind(path) == kind
    rows, report = load_rows(path, stories, max_length=512, on_bad_row="skip")
    assert (report.kind, report.num_rows, report.num_kept) == (kind, num_rows, num_rows)
    assert report.shifted == ()
    assert "id" in report.ignored_columns
    end = stories.eos_token_id if name == "blimp_pairs" else stories.convert_tokens_to_ids("<|im_end|>")
    cut = set(report.truncated)
    for row in rows:
        assert len(row.prompt) + max(len(c.ids) for c in row.completions) <= 512
        for completion in row.completions:
            assert completion.ids.count(end) == (completion.ids[-1] == end)
            assert completion.ids[-1] == end or row.number in cut
    matched, num_same_prompt = add_mismatched(rows, max_length=512)
    assert num_same_prompt == (num_rows if name == "blimp_pairs" else 0)
    for row in matched:
        assert all(len(row.prompt) + len(c.ids) <= 512 for c in row.mismatched)


def test_the_empty_prompt_of_blimp_is_bos(shared, stories):
    rows, _ = load_rows(f"{shared / 'data' / 'blimp_pairs.jsonl'}[:9]", stories, max_length=512)
    assert {row.prompt for row in rows} == {(stories.bos_token_id,)}
    assert stories.decode(rows[0].completions[0].ids) == (
        "Who had Denise sounded like after referencing most girls?</s>"
    )

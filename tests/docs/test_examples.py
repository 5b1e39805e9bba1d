"""The examples of docs/examples: configs that validate, and the demo's parts, with VADER and a small model for real."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from prefopt.config import load_config
from prefopt.data.load import load_rows
from prefopt.objective import build_loss
from prefopt.registry import load_registry
from tests.data.tokenizers import tokenizer
from tests.models import tiny_model

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
LOSSES = ("dpo", "ipo", "kto", "orpo", "sft", "simpo")


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sentiment", EXAMPLES / "sentiment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sentiment"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def scored(demo: ModuleType) -> Callable[..., list[Any]]:
    """Samples of one opening with those scores, each with a text and ids of its own."""

    def make(scores: Sequence[float], opening: str = "The film was") -> list[Any]:
        return [demo.Sample(opening, f" text {i}", score, (5, 6), (7, i)) for i, score in enumerate(scores)]

    return make


def numbers(pairs: Sequence[tuple[Any, Any]]) -> list[tuple[int, int]]:
    return [(chosen.completion_ids[-1], rejected.completion_ids[-1]) for chosen, rejected in pairs]


# configs


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_example_config_is_valid_and_its_loss_exists(path: Path) -> None:
    config = load_config(path)
    build_loss(config, load_registry())


def test_the_demo_reads_what_it_writes(demo: ModuleType) -> None:
    config = load_config(EXAMPLES / "sentiment.yaml")
    assert Path(config.data.train) == demo.FOLDER / "train.jsonl"
    assert Path(config.data.evaluation) == demo.FOLDER / "evaluation.jsonl"
    assert Path(config.output_dir).parent == demo.FOLDER
    assert (ROOT / demo.CONFIG).resolve() == EXAMPLES / "sentiment.yaml"


# openings and scores


def test_held_out_openings_are_not_trained_on(demo: ModuleType) -> None:
    train, held_out = demo.openings("train"), demo.openings("evaluation")
    assert len(set(train) | set(held_out)) == len(train) + len(held_out) == 48
    assert not set(demo.SUBJECTS["train"]) & set(demo.SUBJECTS["evaluation"])


def test_sentiment_tells_praise_from_blame(demo: ModuleType) -> None:
    praise, blame, neither = demo.sentiment(
        [" a joy from start to end", " a terrible waste of money", " two hours long"]
    )
    assert praise > 0.5
    assert blame < -0.5
    assert neither == 0


# pairs


def test_best_goes_with_worst_and_second_with_second_to_last(demo: ModuleType, scored: Callable[..., Any]) -> None:
    pairs = demo.choose_pairs(scored([0.1, 0.9, -0.8, 0.6, -0.3]), minimum_gap=0.2, at_most=9)
    assert numbers(pairs) == [(1, 2), (3, 4)]  # 0.9 with -0.8, 0.6 with -0.3; the one in the middle is left over


def test_equal_scores_make_no_pair(demo: ModuleType, scored: Callable[..., Any]) -> None:
    assert demo.choose_pairs(scored([0.5] * 6), minimum_gap=1e-9) == []
    with pytest.raises(AssertionError):
        demo.choose_pairs(scored([0.5, 0.5]), minimum_gap=0.0)


def test_the_gap_is_a_lower_bound_that_may_be_met(demo: ModuleType, scored: Callable[..., Any]) -> None:
    samples = scored([0.5, 0.25, 0.0, -0.25])
    assert numbers(demo.choose_pairs(samples, minimum_gap=0.75)) == [(0, 3)]
    assert numbers(demo.choose_pairs(samples, minimum_gap=0.25)) == [(0, 3), (1, 2)]
    assert demo.choose_pairs(samples, minimum_gap=0.8) == []


@pytest.mark.parametrize("at_most", [0, 1, 2])
def test_no_more_pairs_of_an_opening_than_asked_for(demo: ModuleType, scored: Callable[..., Any], at_most: int) -> None:
    assert len(demo.choose_pairs(scored([0.9, 0.8, 0.7, -0.7, -0.8, -0.9]), at_most=at_most)) == at_most


def test_one_sample_makes_no_pair(demo: ModuleType, scored: Callable[..., Any]) -> None:
    assert demo.choose_pairs(scored([0.9])) == []
    assert demo.choose_pairs([]) == []


def test_pairs_never_cross_openings(demo: ModuleType, scored: Callable[..., Any]) -> None:
    kind, unkind = scored([0.9, 0.8], "The film was"), scored([-0.9, -0.8], "The soup was")
    assert demo.choose_pairs([kind[0], unkind[0], kind[1], unkind[1]]) == []


def test_ties_are_broken_by_order(demo: ModuleType, scored: Callable[..., Any]) -> None:
    samples = scored([0.9, -0.9, 0.9, -0.9])
    pairs = demo.choose_pairs(samples)
    assert numbers(pairs) == [(0, 3), (2, 1)]
    assert demo.choose_pairs(samples) == pairs


def test_rows_are_pairs_to_prefopt_without_an_added_end(
    demo: ModuleType, scored: Callable[..., Any], write_rows: Callable[..., Path]
) -> None:
    (pair,) = demo.choose_pairs(scored([0.9, -0.9]))
    path = write_rows([demo.as_row(*pair)])
    (row,), report = load_rows(str(path), tokenizer("without_bos", "chatml"), max_length=64)
    assert row.kind == "pairs"
    assert row.prompt == (5, 6)
    assert [completion.ids for completion in row.completions] == [(7, 0), (7, 1)]
    assert [completion.score for completion in row.completions] == [0.9, -0.9]
    assert not report.ignored_columns
    assert not report.truncated


# sampling


def test_samples_are_the_models_own_and_the_same_again(demo: ModuleType) -> None:
    words = tokenizer("without_bos", "chatml")
    model = tiny_model("llama", vocab_size=len(words))
    prompts = ["hello", "the sky is blue, and", "tell me", "eggs", "a story about the sea"]  # more than one batch

    def draw(seed: int) -> list[Any]:
        return demo.sample(model, words, prompts, seed=seed, num_samples=3, max_new_tokens=5)

    samples = draw(0)
    assert [one.opening for one in samples] == [prompt for prompt in prompts for _ in range(3)]
    for one in samples:
        assert list(one.prompt_ids) == words(one.opening)["input_ids"]  # no padding left
        assert 1 <= len(one.completion_ids) <= 5
        assert words.eos_token_id not in one.completion_ids[:-1]
        assert one.text == words.decode(one.completion_ids, skip_special_tokens=True)
        assert -1 <= one.score <= 1
    assert len({one.completion_ids for one in samples}) > 3
    assert draw(0) == samples
    assert draw(1) != samples


def test_padding_does_not_change_what_is_likely(demo: ModuleType) -> None:
    """At a temperature near 0 sampling is greedy: a short prompt beside a long one continues as it does alone."""
    words = tokenizer("without_bos", "chatml")
    model = tiny_model("llama", vocab_size=len(words))
    model.eval()
    prompts = ["hi", "Question: what is the colour of the sky?"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "TEMPERATURE", 1e-4)
        samples = demo.sample(model, words, prompts, seed=0, num_samples=1, max_new_tokens=6)
    for prompt, one in zip(prompts, samples, strict=True):
        ids = words(prompt)["input_ids"]
        for token in one.completion_ids:
            with torch.no_grad():
                assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
            ids = [*ids, token]


def test_an_end_token_ends_a_completion(demo: ModuleType) -> None:
    assert demo._up_to([4, 2, 2, 2], 2) == [4, 2]
    assert demo._up_to([4, 5, 6], 2) == [4, 5, 6]


# numbers


def test_the_interval_draws_openings_not_samples(demo: ModuleType, scored: Callable[..., Any]) -> None:
    opposed = scored([0.5] * 50, "The film was") + scored([-0.5] * 50, "The soup was")
    mean, low, high = demo.mean_with_interval(opposed)
    assert mean == 0
    assert (low, high) == (-0.5, 0.5)
    assert demo.mean_with_interval(opposed) == (mean, low, high)


def test_repetition_shows_in_the_share_of_different_words(demo: ModuleType) -> None:
    varied, repeated = (
        [demo.Sample("", text, 0.0, (1,), (2,)) for text in texts]
        for texts in (["a fine evening", "the best soup"], ["Great, great!", "great great"])
    )
    assert demo.distinct_words(varied) == 1
    assert demo.distinct_words(repeated) == 0.25


# the whole demo


@pytest.fixture
def small_demo(demo: ModuleType, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo on a random model in a folder of its own, small in every number."""
    text = (EXAMPLES / "sentiment.yaml").read_text(encoding="utf-8")
    text = text.replace("models/SmolLM2-135M-Instruct", str(model_folder)).replace("runs/demo", str(tmp_path))
    config = tmp_path / "sentiment.yaml"
    config.write_text(text, encoding="utf-8")
    monkeypatch.setattr(demo, "CONFIG", config)
    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    monkeypatch.setattr(demo, "NUM_SAMPLES", 4)
    monkeypatch.setattr(demo, "MAX_NEW_TOKENS", 6)
    monkeypatch.setattr(demo, "SUBJECTS", {"train": ("The film", "The soup"), "evaluation": ("The play", "The tour")})
    # A random model writes no words that VADER rates; the length of a text is as good a score here.
    monkeypatch.setattr(demo, "sentiment", lambda texts: [(len(text) % 11 - 5) / 5 for text in texts])
    return tmp_path


@pytest.mark.parametrize("loss", LOSSES)
def test_the_demo_runs_with_every_loss(
    demo: ModuleType, small_demo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], loss: str
) -> None:
    # In this process: starting Python six times would take most of the time.
    monkeypatch.setattr(subprocess, "run", _train_here)
    demo.main(["--loss", loss])
    shown = capfd.readouterr().out
    assert "Held-out openings" in shown
    assert "reused" not in shown
    assert max(map(len, shown.replace(str(small_demo), "").splitlines())) <= 80
    record = json.loads((small_demo / loss / "run.json").read_text(encoding="utf-8"))
    assert f"{record['evaluation']['after']['reward_accuracy']:.2f} [" in shown


def test_a_second_loss_reuses_the_samples_and_leaves_the_first_run_alone(
    demo: ModuleType, small_demo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", _train_here)
    demo.main(["--loss", "dpo"])
    rows, first = (small_demo / "train.jsonl").read_bytes(), (small_demo / "dpo" / "run.json").read_bytes()
    capfd.readouterr()
    demo.main(["--loss", "simpo"])
    assert "reused" in capfd.readouterr().out
    assert (small_demo / "train.jsonl").read_bytes() == rows
    assert (small_demo / "dpo" / "run.json").read_bytes() == first
    demo.main(["--loss", "simpo", "loss.beta=1.0"])  # overwrites its own run
    assert "beta: 1.0" in (small_demo / "simpo" / "config.resolved.yaml").read_text(encoding="utf-8")
    capfd.readouterr()
    monkeypatch.setattr(demo, "TEMPERATURE", 0.5)  # other samples
    demo.main(["--loss", "simpo"])
    assert "reused" not in capfd.readouterr().out


def _train_here(command: Sequence[str], *, check: bool) -> subprocess.CompletedProcess[str]:
    from prefopt.run import run

    assert not check
    assert command[1:4] == ["-m", "prefopt", "train"]
    config = load_config(command[4], command[5:-1])
    assert command[-1] == "--overwrite"
    run(config, build_loss(config, load_registry()), overwrite=True)
    return subprocess.CompletedProcess(command, 0)


def test_a_mistyped_loss_fails_before_anything_is_sampled(
    demo: ModuleType, small_demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "run", lambda *_: pytest.fail("the demo began"))
    with pytest.raises(SystemExit, match="error: unknown loss 'dpoo'; did you mean 'dpo'"):
        demo.main(["--loss", "dpoo"])
    with pytest.raises(SystemExit, match="error: loss dpo has no field 'betta'"):
        demo.main(["loss.betta=1"])


def test_a_missing_model_folder_names_the_make_target(
    demo: ModuleType, small_demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_demo / "sentiment.yaml"
    lines = config.read_text(encoding="utf-8").splitlines()
    config.write_text("\n".join("model: models/none" if line.startswith("model:") else line for line in lines))
    with pytest.raises(SystemExit, match="'models/none' does not exist; `make models/SmolLM2-135M-Instruct` writes it"):
        demo.main([])
    assert "SMOLLM2 := models/SmolLM2-135M-Instruct" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_settings_of_other_sections_are_refused(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(["--loss", "dpo", "data.train=mine.jsonl"])
    assert "'data.train=mine.jsonl' is not a setting of loss.* or training.*" in capsys.readouterr().err

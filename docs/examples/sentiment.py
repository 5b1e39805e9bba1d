"""Teach SmolLM2-135M-Instruct to continue reviews kindly, with the loss you name, and show what changed.

The first experiment of the DPO paper (arXiv 2305.18290, section 6.1) in small: a model continues reviews, a scorer that
stands for the true reward says how positive each continuation is, and preference pairs are made of its verdicts. Here
the scorer is VADER, a list of rated words with rules, so nothing but the model is needed and nothing is downloaded.

    make demo-lm             # dpo
    make demo-lm LOSS=simpo     # another loss, on the same pairs

The pairs come from the untrained model itself and are kept in runs/demo; a second loss finds them there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Set before torch is imported, here and in the training process. Nothing is looked up on the Hub; and a thread that
# waits for the others sleeps: where a machine has other work too, waiting awake makes everything several times slower.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from prefopt.config import ModelConfig, RunConfig, load_config
from prefopt.errors import ModelError, PrefoptError
from prefopt.objective import build_loss
from prefopt.registry import load_registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG = Path("docs/examples/sentiment.yaml")
FOLDER = Path("runs/demo")

# An opening is a subject and an ending. It stops where an opinion is due, so that continuations differ in sentiment.
SUBJECTS = {
    "train": (
        "The film we saw last night",
        "Her second novel",
        "The restaurant by the station",
        "Our room in that hotel",
        "The band's last concert",
        "The museum in the old town",
        "The lead actor",
        "The soup of the day",
    ),
    "evaluation": ("The school play", "The little café on the corner", "His latest album", "The guided tour"),
}
ENDINGS = (" was so", " was absolutely", " left us feeling", ". I thought it was")

NUM_SAMPLES = 12  # continuations of each opening
MAX_NEW_TOKENS = 22
TEMPERATURE = 0.8
SEEDS = {"train": 1, "evaluation": 2}
OPENINGS_AT_ONCE = 4
MINIMUM_GAP = 0.4  # between the scores of a pair; they lie in [-1, 1]
PAIRS_PER_OPENING = 4


@dataclass(frozen=True)
class Sample:
    """One continuation that a model wrote.

    Attributes:
        opening: the text it continues.
        text: the continuation, special tokens left out.
        score: how positive `text` is, from -1 to 1.
        prompt_ids: the opening as the model saw it.
        completion_ids: the continuation as the model wrote it, an end-of-turn token included if there is one.
    """

    opening: str
    text: str
    score: float
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


def openings(part: str) -> list[str]:
    """Every subject of that part with every ending.

    >>> openings("evaluation")[:2]
    ['The school play was so', 'The school play was absolutely']
    """
    return [subject + ending for subject in SUBJECTS[part] for ending in ENDINGS]


def sentiment(texts: Iterable[str]) -> list[float]:
    """VADER's compound score of each text: -1 most negative, 0 neutral, 1 most positive.

    >>> sentiment(["a wonderful evening", "a dreadful evening", "an evening"])
    [0.5719, -0.4404, 0.0]
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return [float(analyzer.polarity_scores(text)["compound"]) for text in texts]


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    seed: int,
    num_samples: int,
    max_new_tokens: int,
    after_batch: Callable[[], None] = lambda: None,
) -> list[Sample]:
    """Continue each opening several times, with scores.

    The same seed draws the same random numbers whatever the weights, so the texts of a model before and after training
    differ only where training changed its mind.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: the openings.
        seed: of the draws.
        num_samples: continuations of each opening.
        max_new_tokens: where a continuation is cut.
        after_batch: called after every few openings.

    Returns:
        `num_samples` samples of the first opening, then of the second, and so on.
    """
    import torch

    end = tokenizer.eos_token_id
    tokenizer.padding_side = "left"  # so that every opening ends where its continuation begins
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.train(False)
    torch.manual_seed(seed)
    drawn: list[tuple[str, list[int], list[int]]] = []
    for first in range(0, len(prompts), OPENINGS_AT_ONCE):
        some = list(prompts[first : first + OPENINGS_AT_ONCE])
        batch = tokenizer(some, return_tensors="pt", padding=True, return_token_type_ids=False)
        with torch.inference_mode():
            written = model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                num_return_sequences=num_samples,
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=0,
                top_p=1.0,
                eos_token_id=end,
                pad_token_id=tokenizer.pad_token_id,
            )
        new = written[:, batch["input_ids"].shape[1] :].tolist()
        for index, prompt in enumerate(some):
            prompt_ids = batch["input_ids"][index][batch["attention_mask"][index].bool()].tolist()
            for ids in new[index * num_samples : (index + 1) * num_samples]:
                drawn.append((prompt, prompt_ids, _up_to(ids, end)))
        after_batch()
    texts = tokenizer.batch_decode([ids for _, _, ids in drawn], skip_special_tokens=True)
    return [
        Sample(prompt, text, score, tuple(prompt_ids), tuple(ids))
        for (prompt, prompt_ids, ids), text, score in zip(drawn, texts, sentiment(texts), strict=True)
    ]


def choose_pairs(
    samples: Sequence[Sample], *, minimum_gap: float = MINIMUM_GAP, at_most: int = PAIRS_PER_OPENING
) -> list[tuple[Sample, Sample]]:
    """Pair the most with the least positive samples of each opening: best with worst, second with second to last.

    No sample is in two pairs, and equal scores never make one. Where scores are equal the earlier sample stands first,
    so the same samples make the same pairs.

    Args:
        samples: of any openings, in any order.
        minimum_gap: by how much the scores of a pair differ, or more; above 0.
        at_most: pairs of one opening.

    Returns:
        (chosen, rejected), by opening in order of appearance, the widest gap first.
    """
    assert minimum_gap > 0, minimum_gap
    by_opening: dict[str, list[Sample]] = defaultdict(list)
    for one in samples:
        by_opening[one.opening].append(one)
    pairs = []
    for group in by_opening.values():
        ranked = sorted(group, key=lambda one: -one.score)
        mirrored = list(zip(ranked, reversed(ranked), strict=True))[: min(at_most, len(ranked) // 2)]
        pairs += [(best, worst) for best, worst in mirrored if best.score - worst.score >= minimum_gap]
    return pairs


def as_row(chosen: Sample, rejected: Sample) -> dict[str, Any]:
    """A pair as prefopt reads it.

    Token ids rather than text: a continuation that was cut at its length limit has no end, and must not be taught one.
    """
    return {
        "prompt_ids": list(chosen.prompt_ids),
        "chosen_ids": list(chosen.completion_ids),
        "rejected_ids": list(rejected.completion_ids),
        "chosen_score": chosen.score,
        "rejected_score": rejected.score,
    }


def mean_with_interval(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """The mean score and its 95 % bootstrap interval.

    Whole openings are drawn anew, not single samples: continuations of one opening are alike, and counting each as an
    observation of its own would make the interval too narrow.
    """
    by_opening: dict[str, list[float]] = defaultdict(list)
    for one in samples:
        by_opening[one.opening].append(one.score)
    groups = list(by_opening.values())
    draw = random.Random(0)
    means = sorted(
        _mean(score for group in draw.choices(groups, k=len(groups)) for score in group) for _ in range(2000)
    )
    return _mean(one.score for one in samples), means[50], means[-51]


def distinct_words(samples: Sequence[Sample]) -> float:
    """Different words as a share of all words. It falls when a model finds one happy phrase and repeats it."""
    words = [word.strip(".,;:!?\"'()").lower() for one in samples for word in one.text.split()]
    return len(set(words)) / len(words)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _up_to(ids: Sequence[int], end: int) -> list[int]:
    """The ids up to and including the first end token; what stands after it is padding."""
    return list(ids[: ids.index(end) + 1] if end in ids else ids)


# From here on: the four stages, and what is shown of them.


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", default="dpo", help="a loss that reads pairs; `prefopt losses` lists all")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY.PATH=VALUE", help="loss.* or training.* settings, as in loss.beta=0.5"
    )
    given = parser.parse_args(arguments)
    for setting in given.settings:
        if not setting.startswith(("loss.", "training.")):
            parser.error(f"{setting!r} is not a setting of loss.* or training.*; the demo chooses the others")
    overrides = [f"loss={given.loss}", f"output_dir={FOLDER / given.loss}", *given.settings]
    try:
        # Whatever is mistyped is told now, not after a minute of sampling.
        config = load_config(CONFIG, overrides)
        build_loss(config, load_registry())
        if not Path(config.model.name).is_dir():
            raise ModelError(
                f"model folder {config.model.name!r} does not exist; `make models/SmolLM2-135M-Instruct` writes it"
            )
        run(config, given.loss, overrides)
    except PrefoptError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def run(config: RunConfig, loss: str, overrides: Sequence[str]) -> None:
    """The four stages."""
    started = time.perf_counter()
    print(f"{Path(config.model.name).name} learns to continue reviews kindly, with loss {loss}.\n")

    with Stage("1/4", "Let the untrained model continue openings of reviews") as stage:
        before = sampled(config.model, FOLDER / "samples.json", stage)

    with Stage("2/4", "Score them with VADER, pair the kind with the unkind") as stage:
        pairs = {part: choose_pairs(samples) for part, samples in before.items()}
        for part, chosen in pairs.items():
            rows = [json.dumps(as_row(*pair)) + "\n" for pair in chosen]
            (FOLDER / f"{part}.jsonl").write_text("".join(rows), encoding="utf-8")
        stage.say("VADER adds up rated words: -1 is all bad, 0 neutral, +1 all good")
        stage.say(f"{len(pairs['train'])} pairs to train on, {len(pairs['evaluation'])} held out; the clearest:")
        best, worst = max(pairs["train"], key=lambda pair: pair[0].score - pair[1].score)
        stage.say(f"{best.opening} ...")
        for name, one in (("chosen", best), ("rejected", worst)):
            stage.say(f"  {name:10}{one.score:+.2f}  {flat(one.text)}", hanging=19)

    with Stage("3/4", "Train, with one command") as stage:
        command = ["prefopt", "train", str(CONFIG), *overrides, "--overwrite"]
        stage.say(f"$ {' '.join(command)}", hanging=4)
        status = subprocess.run([sys.executable, "-m", *command], check=False).returncode
        if status:
            sys.exit(status)

    with Stage("4/4", "Let the trained model continue the held-out openings") as stage:
        after = draw(ModelConfig(name=config.output_dir), ["evaluation"], stage)["evaluation"]

    show(before["evaluation"], after, json.loads((Path(config.output_dir) / "run.json").read_text(encoding="utf-8")))
    print(f"\nThe trained model is in {config.output_dir}. Everything took {time.perf_counter() - started:.0f} s.")


class Stage:
    """A part of the output with a heading, which tells at its end how long it took."""

    def __init__(self, number: str, title: str) -> None:
        self._heading = f"[{number}] {title}"

    def __enter__(self) -> Stage:
        self._started = time.perf_counter()
        print(self._heading, flush=True)
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            self.say(f"{time.perf_counter() - self._started:.0f} s")
            print(flush=True)

    def say(self, line: str, *, hanging: int = 0) -> None:
        """A line below the heading, folded at 80 columns; what is folded hangs that much further in."""
        print(folded(line, indent=6, hanging=hanging), flush=True)

    def dot(self) -> None:
        """A sign of life on the line that `begin` opened."""
        print(".", end="", flush=True)

    def begin(self, line: str) -> None:
        """A line that dots follow."""
        print(f"{'':6}{line} ", end="", flush=True)

    def end(self) -> None:
        """End the line of dots."""
        print(flush=True)


def sampled(model: ModelConfig, path: Path, stage: Stage) -> dict[str, list[Sample]]:
    """The untrained model's samples of both parts: from the file if it was written with these settings, else anew."""
    settings = {
        "model": [model.name, (Path(model.name) / "config.json").stat().st_mtime],
        "openings": {part: openings(part) for part in SUBJECTS},
        "drawn": [NUM_SAMPLES, MAX_NEW_TOKENS, TEMPERATURE, SEEDS, OPENINGS_AT_ONCE],
    }
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] == settings:
            stage.say(f"reused from {path}; delete it to draw anew")
            return {part: [_sample(values) for values in kept[part]] for part in SUBJECTS}
    found = draw(model, list(SUBJECTS), stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {part: [asdict(one) for one in samples] for part, samples in found.items()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"settings": settings, **values}, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
    return found


def _sample(values: dict[str, Any]) -> Sample:
    return Sample(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def draw(model: ModelConfig, parts: Sequence[str], stage: Stage) -> dict[str, list[Sample]]:
    """Load a model and let it continue every opening of those parts."""
    from prefopt.cli.terminal import quieten
    from prefopt.engine.loading import load_model, load_tokenizer

    quieten()
    policy, tokenizer = load_model(model), load_tokenizer(model)
    found = {}
    for part in parts:
        prompts = openings(part)
        what = "held-out" if part == "evaluation" else "training"
        stage.begin(f"{len(prompts)} {what} openings, {NUM_SAMPLES} continuations of each")
        found[part] = sample(
            policy,
            tokenizer,
            prompts,
            seed=SEEDS[part],
            num_samples=NUM_SAMPLES,
            max_new_tokens=MAX_NEW_TOKENS,
            after_batch=stage.dot,
        )
        stage.end()
    return found


def show(before: Sequence[Sample], after: Sequence[Sample], record: dict[str, Any]) -> None:
    """What changed on the held-out openings, in numbers and in three texts."""
    reports = [record["evaluation"][when] for when in ("before", "after")]
    accuracies = [(report["reward_accuracy"], *report["reward_accuracy_interval"]) for report in reports]
    print(f"{'Held-out openings':20}{'before':>22}{'after':>22}")
    print(_line("reward accuracy", accuracies, ".2f"))
    print(_line("sentiment", [mean_with_interval(samples) for samples in (before, after)], "+.2f"))
    shares = [distinct_words(samples) for samples in (before, after)]
    print(f"{'different words':20}{shares[0]:>22.0%}{shares[1]:>22.0%}\n")
    print(f"  reward accuracy: share of {reports[0]['num_pairs']} pairs whose kinder one has the higher reward")
    print(f"  sentiment: mean over {len(after)} continuations, from -1 to 1")
    print("  [in brackets]: their 95 % intervals")
    print("  different words: as a share of all words; low if one phrase is repeated")
    for old, new in telling(before, after):
        print(f"\n{old.opening} ...")
        for name, one in (("before", old), ("after", new)):
            print(folded(f"{name:8}{one.score:+.2f}  {flat(one.text)}", indent=2, hanging=15))


def _line(name: str, values: Iterable[tuple[float, float, float]], form: str) -> str:
    return f"{name:20}" + "".join(f"{f'{m:{form}} [{a:{form}}, {b:{form}}]':>22}" for m, a, b in values)


def telling(before: Sequence[Sample], after: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """The first continuation of three openings, before and after: chosen by position, not for their beauty."""
    return list(zip(before, after, strict=True))[:: NUM_SAMPLES * (len(ENDINGS) + 1)][:3]


def folded(line: str, *, indent: int, hanging: int) -> str:
    """A line in at most 80 columns."""
    return textwrap.fill(line, 80, initial_indent=" " * indent, subsequent_indent=" " * (indent + hanging))


def flat(text: str) -> str:
    """A text on one line, without characters that would steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


if __name__ == "__main__":
    main()

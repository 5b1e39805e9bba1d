"""What a seed sets a method: a model, pairs of what it wrote, and prompts to be measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from torch import Tensor, tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.bench.language_model.pairs import compare
from prefopt.bench.language_model.prompts import Prompt, draw_prompts
from prefopt.bench.language_model.remembered import RememberedReference
from prefopt.config import ModelConfig
from prefopt.data.row import Row
from prefopt.engine.loading import load_model, load_tokenizer
from prefopt.engine.logps import Scorer
from prefopt.engine.proven import proven
from prefopt.errors import DataError
from prefopt.evaluation.sampling import sample, texts
from prefopt.evaluation.text_rewards import Reward

if TYPE_CHECKING:
    from prefopt.bench.language_model.task import LanguageModelTask

_PROMPTS, _NOISE, _TRAIN, _TEST = range(4)  # streams of random numbers that do not touch each other


@dataclass(frozen=True)
class Initial:
    """What all seeds share.

    Attributes:
        model: before training.
        tokenizer: its tokenizer.
        reward: judges what it writes.
        prompt_sets: name -> prompts of the task's own.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reward: Reward
    prompt_sets: Mapping[str, Any]


def load(task: LanguageModelTask, settings: Mapping[str, Any]) -> Initial:
    """The initial model and the reward; the reward first, as it is the more likely one to be missing.

    Raises:
        ConfigError: the reward's package is not installed.
        ModelError: the model or the reward's cannot be loaded.
    """
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours is on the screen
    reward = task.reward(settings)
    model = ModelConfig(name=settings["model"])
    tokenizer = load_tokenizer(model)
    return Initial(load_model(model).requires_grad_(False), tokenizer, reward, task.prompt_sets)


@dataclass(frozen=True)
class Problem:
    """The problem of a seed.

    Attributes:
        seed: of all draws.
        reference: the initial model, frozen.
        remembered: its log-probs of the pairs.
        tokenizer, reward: as in `Initial`.
        pairs: rows to learn from.
        test_prompts: prompts that are in no pair.
        num_samples, max_new_tokens: of what is written to them.
        samples: what the reference writes to them.
        rewards: [P, M] the rewards of `samples`.
    """

    seed: int
    reference: Scorer
    remembered: RememberedReference
    tokenizer: PreTrainedTokenizerBase
    reward: Reward
    pairs: tuple[Row, ...]
    test_prompts: tuple[Prompt, ...]
    num_samples: int
    max_new_tokens: int
    samples: tuple[Row, ...]
    rewards: Tensor

    @classmethod
    def draw(cls, seed: int, initial: Initial, settings: Mapping[str, Any]) -> Problem:
        """Draw prompts, let the model continue them and compare what it wrote.

        Args:
            seed: of all draws.
            initial: model and reward.
            settings: all knobs of the task.

        Raises:
            DataError: there are too few prompts, or the reward is the same for all continuations.
            ModelError: the model cannot be run on the rows.
        """
        model, tokenizer, reward = initial.model, initial.tokenizer, initial.reward
        num_prompts, num_test = settings["num_prompts"], settings["num_test_prompts"]
        prompts = draw_prompts(
            np.random.default_rng((seed, _PROMPTS)),
            settings["prompts"],
            initial.prompt_sets,
            tokenizer,
            num_prompts + num_test,
        )
        sizes = {"num_samples": settings["num_samples"], "max_new_tokens": settings["max_new_tokens"]}
        written = sample(model, tokenizer, prompts[:num_prompts], seed=_stream(seed, _TRAIN), **sizes)
        pairs = compare(
            np.random.default_rng((seed, _NOISE)),
            written,
            reward(texts(tokenizer, written)),
            num_samples=settings["num_samples"],
            noise=settings["noise"],
        )
        if not pairs:
            raise DataError(
                f"reward {settings['reward']!r} is the same for all continuations of each of {num_prompts} prompts, so "
                "they make no pair; use more prompts or longer continuations"
            )
        test_prompts = prompts[num_prompts:]
        samples = sample(model, tokenizer, test_prompts, seed=_stream(seed, _TEST), **sizes)
        # What the model does not take costs time only; the proof itself is what matters here.
        reference, _ = proven(model, settings["model"], tokenizer, [*pairs, *samples])
        return cls(
            seed=seed,
            reference=reference,
            remembered=RememberedReference(reference),
            tokenizer=tokenizer,
            reward=reward,
            pairs=tuple(pairs),
            test_prompts=tuple(test_prompts),
            samples=tuple(samples),
            rewards=tensor(reward(texts(tokenizer, samples))).view(num_test, -1),
            **sizes,
        )

    def written_by(self, policy: PreTrainedModel) -> list[Row]:
        """What a policy writes to the test prompts, with the random numbers the reference had."""
        return sample(
            policy,
            self.tokenizer,
            self.test_prompts,
            num_samples=self.num_samples,
            max_new_tokens=self.max_new_tokens,
            seed=_stream(self.seed, _TEST),
        )


def _stream(seed: int, stream: int) -> int:
    """The seed of a stream for torch, which takes one number."""
    return int(np.random.SeedSequence((seed, stream)).generate_state(1)[0])

"""The reference that stays in memory while the policy trains: as far as it can be, in the policy's own weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefopt.config import AdapterConfig, ModelConfig, RunConfig
from prefopt.data.row import Row
from prefopt.engine.adapted import base_of, changes_base, twin
from prefopt.engine.adapters import spelled_out
from prefopt.engine.logps import Scorer
from prefopt.errors import ModelError
from prefopt.reference.identity import identify
from prefopt.reference.loading import ReferenceModel


class Kind(Enum):
    """What a live reference is, and so what it costs; the value says it in run.json."""

    BASE = "base"
    """The policy's base, its adapter left out: the same weights in memory."""
    INITIAL_ADAPTER = "initial adapter"
    """The policy's base with the adapter as it began: one more adapter in memory."""
    INITIAL_POLICY = "initial policy"
    """The policy as it began: a second model in memory."""
    MODEL = "model"
    """Another model, loaded beside the policy."""


_IN_WORDS = {
    Kind.BASE: "reference: the base of the policy, with the adapter off; it takes no memory of its own",
    Kind.INITIAL_ADAPTER: "reference: the base of the policy with the adapter it begins with; only that is copied",
    Kind.INITIAL_POLICY: "reference: a copy of the initial policy",
}


def kind_of(config: RunConfig) -> Kind:
    """What the live reference of a run is, by the config and by the content of the models it names.

    A new adapter that adds nothing before it is trained begins as its base, which is then the reference. A reference
    that moves towards the policy needs an adapter of its own.

    Args:
        config: the run's settings.

    Raises:
        ModelError: a model's name is neither a folder nor a Hub id.
    """
    policy, other = spelled_out(config.model), config.reference.model
    if policy.adapter is None:
        return Kind.INITIAL_POLICY if other is None else Kind.MODEL
    base = policy.model_copy(update={"adapter": None})
    if other is None or _same(other, policy):
        begins_as_base = policy.adapter.begins_as_base and config.reference.update_steps is None
        return Kind.BASE if begins_as_base else Kind.INITIAL_ADAPTER
    return Kind.BASE if _same(other, base) and config.reference.update_steps is None else Kind.MODEL


def live_reference(
    config: RunConfig,
    policy: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    say: Callable[[str], None],
) -> tuple[Scorer, dict[str, Any]]:
    """The model whose log-probs a run compares with, frozen.

    It never changes the policy, nor does training the policy change it.

    Args:
        config: the run's settings.
        policy: before its first step, before anything wraps it, and before a checkpoint is put back into it: with the
            adapter its config names.
        tokenizer: the policy's.
        rows: those of the run, for a model that is loaded.
        say: is told which it is.

    Returns:
        The reference, and what run.json keeps of it.

    Raises:
        ModelError: the reference cannot be loaded, or not be run on these rows.
    """
    kind = kind_of(config)
    if kind is Kind.BASE and changes_base(policy.model):
        # What it was before the adapter came is nowhere in memory.
        kind = Kind.INITIAL_ADAPTER if config.reference.model is None else Kind.MODEL
    used = {"kind": kind.value, "model_loaded": kind in (Kind.MODEL, Kind.INITIAL_POLICY)}
    if kind is Kind.MODEL:
        assert config.reference.model is not None
        say(f"reference: {config.reference.model.name}, a second model in memory")
        return ReferenceModel(config.reference.model, tokenizer, say)(rows), used
    say(_IN_WORDS[kind])
    model = base_of(policy.model) if kind is Kind.BASE else twin(policy.model)
    scorer = Scorer(model, packed=policy.packed, chunked_head=policy.head is not None, autocast=policy.autocast)
    return scorer.requires_grad_(False), used


def _same(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether two models score alike: by what their configs say of them, else by the content of their files."""
    if _as_scored(one) == _as_scored(other):
        return True
    with suppress(ModelError):  # one that cannot be told by its files is another one; loading it says what is wrong
        return identify(one) == identify(other)
    return False


def _as_scored(model: ModelConfig) -> ModelConfig:
    """The config without what changes no log-prob of an untrained model."""
    model = spelled_out(model)
    own = model.adapter
    if own is not None:
        own = None if own.begins_as_base else AdapterConfig(path=own.path) if own.path is not None else own
    return model.model_copy(update={"adapter": own, "attention": None})

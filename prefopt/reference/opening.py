"""Which reference a run means, and its store, before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from prefopt.config import ModelConfig, RunConfig
from prefopt.reference.identity import Identity, identify
from prefopt.reference.mirror import default_cache_dir
from prefopt.reference.store import Store


@dataclass(frozen=True)
class Reference:
    """The reference of a run.

    Attributes:
        settings: the model that scores; a new adapter, which begins as its base, is left out.
        identity: its content.
        store: where its log-probs are.
        is_policy: whether the initial policy is this very model, whatever it is called.
    """

    settings: ModelConfig
    identity: Identity
    store: Store
    is_policy: bool

    @property
    def in_words(self) -> str:
        """What is about to be scored, and where the values go."""
        return (
            f"scoring {self.settings.name} in {self.identity.precision} (reference {self.identity.digest[:12]}) into "
            f"{self.store.place}"
        )


def open_reference(config: RunConfig, cache_dir: str | None = None) -> Reference:
    """Identify the reference of a run and open its store, which need not exist yet.

    Args:
        config: the run's settings.
        cache_dir: the store, if not the config's.

    Raises:
        ModelError: a model cannot be identified.
        StoreError: the store is damaged or cannot be read.
    """
    settings = config.reference.model or config.model
    identity = identify(settings)
    own = config.model.adapter
    is_policy = config.reference.model is None or (
        settings.dtype == config.model.dtype
        and (own is None or own.path is not None or own.begins_as_base)
        and identify(config.model) == identity
    )
    if settings.adapter is not None and settings.adapter.path is None:
        settings = settings.model_copy(update={"adapter": None})
    place = cache_dir or config.reference.cache_dir or default_cache_dir()
    return Reference(settings, identity, Store(place, identity.digest), is_policy)

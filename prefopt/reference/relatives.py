"""Which stored reference is nearly the one that is wanted: what to tell a user whose store does not hit."""

from __future__ import annotations

from contextlib import suppress

from prefopt.errors import StoreError
from prefopt.reference.identity import Identity
from prefopt.reference.mirror import Mirror, identities
from prefopt.reference.shard import Shard


def nearly(cache_dir: str, identity: Identity, name: str) -> str | None:
    """In what a stored reference like this one differs from it, as a sentence; None where none is like it.

    Args:
        cache_dir: the store; of each reference in it one shard is looked at.
        identity: the reference that is wanted, of which nothing is stored.
        name: what it is called.
    """
    for other in identities(cache_dir):
        mirror = Mirror(cache_dir, other)
        with suppress(StoreError, FileNotFoundError):  # a reference that cannot be read is not this one
            if not mirror.shards():
                mirror.fetch(at_most=1)
            for path in mirror.shards()[:1]:
                found = _difference(Shard(path, other, cache_dir).about["made_by"], identity, name)
                if found is not None:
                    return found
    return None


def _difference(made_by: dict[str, str], identity: Identity, name: str) -> str | None:
    same_weights = made_by.get("weights") == identity.weights
    if same_weights and made_by.get("adapter") == identity.adapter:
        parts = ("dtype", "autocast", "quantization")
        if any(made_by.get(part) != getattr(identity, part) for part in parts):
            held = Identity("", "", None, *(made_by.get(part) for part in parts))  # type: ignore[arg-type]
            return f"the store holds this model's log-probs in {held.precision}, and {identity.precision} is wanted"
        return "the store holds log-probs of the same weights under another config.json"
    if made_by.get("name") == name:
        part = "adapter" if same_weights else "weights"
        return f"the store holds log-probs of {name!r} with other {part}: it has changed since"
    return None

"""Which stored reference is nearly the one that is wanted: what to tell a user whose store does not hit."""

from __future__ import annotations

from prefopt.reference.catalogue import catalogue
from prefopt.reference.identity import Identity


def nearly(cache_dir: str, identity: Identity, name: str) -> str | None:
    """In what the stored reference most like this one differs, as a sentence; None where none is like it.

    Args:
        cache_dir: the store.
        identity: the reference that is wanted.
        name: what it is called.
    """
    for other in reversed(catalogue(cache_dir)):
        made_by = other.made_by
        if other.identity == identity.digest or not made_by:
            continue
        if made_by["weights"] == identity.weights and made_by.get("adapter") == identity.adapter:
            if made_by["dtype"] != identity.dtype:
                return f"the store holds this model's log-probs in {made_by['dtype']}, and {identity.dtype} is wanted"
            return "the store holds log-probs of the same weights under another config.json"
        if made_by["name"] == name:
            part = "adapter" if made_by["weights"] == identity.weights else "weights"
            return f"the store holds log-probs of {name!r} with other {part}: it has changed since"
    return None

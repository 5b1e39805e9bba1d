"""How a policy is written: in Hugging Face format, as a model, as an adapter, or as a model with the adapter merged."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import ADAPTER_SAFE_WEIGHTS_NAME

from prefopt.engine.adapted import adapter_weights, merged, wrapper_of
from prefopt.engine.ranks import ALONE, Ranks, in_shards, whole
from prefopt.errors import OutputError


def save_policy(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    merge: bool = False,
    ranks: Ranks = ALONE,
) -> None:
    """Write the policy as it stands, and its tokenizer; training may go on afterwards.

    Args:
        policy: of one with an adapter, the adapter alone is written, beside the name of its base.
        tokenizer: the policy's.
        folder: made where it does not exist.
        merge: write a model with the adapter added to its weights instead, which needs memory for a second copy of the
            layers that the adapter changes; without an adapter it makes no difference. Not of a model in shards.
        ranks: all processes that hold the model call this; shards are put together, and the first process writes.

    Raises:
        OutputError: the folder cannot be written.
    """
    adapted = wrapper_of(policy) is not None
    weights, settings = adapter_weights(policy) if adapted and not merge else (_whole(policy, ranks), None)
    if ranks.index > 0:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if settings is not None:
            save_file(weights, folder / ADAPTER_SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
            settings.save_pretrained(folder)
        elif adapted:
            merged(policy).save_pretrained(folder)
        else:
            policy.save_pretrained(folder, state_dict=weights or None)
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(
            f"the model cannot be written into {str(folder)!r} ({reason}); make room, and go on from the last "
            "checkpoint with --resume"
        ) from error


def _whole(policy: PreTrainedModel, ranks: Ranks) -> dict[str, Tensor]:
    """The weights of a model in shards, whole, in the first process; empty where nothing is sharded."""
    found = policy.state_dict(keep_vars=True)
    if not any(in_shards(own) for own in found.values()):
        return {}
    kept = {}
    for name, own in found.items():  # so that no device holds more than one of them whole
        value = whole(own)
        if ranks.index == 0:
            kept[name] = value.detach().cpu()
        del value
    return kept

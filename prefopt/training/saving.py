"""How a policy is written: in Hugging Face format, as a model, as an adapter, or as a model with the adapter merged."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import ADAPTER_SAFE_WEIGHTS_NAME

from prefopt.engine.adapted import adapter_weights, merged, wrapper_of


def save_policy(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, merge: bool = False
) -> None:
    """Write the policy as it stands, and its tokenizer; training may go on afterwards.

    Args:
        policy: of one with an adapter, the adapter alone is written, beside the name of its base.
        tokenizer: the policy's.
        folder: made where it does not exist.
        merge: write a model with the adapter added to its weights instead, which needs memory for a second copy of the
            layers that the adapter changes; without an adapter it makes no difference.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if wrapper_of(policy) is None:
        policy.save_pretrained(folder)
    elif merge:
        merged(policy).save_pretrained(folder)
    else:
        weights, settings = adapter_weights(policy)
        save_file(weights, folder / ADAPTER_SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
        settings.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

"""Models whose weights are held in few bits, through bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

from prefopt.config import ModelConfig
from prefopt.errors import ConfigError, ModelError


def check_quantization(model: ModelConfig) -> None:
    """Refuse what cannot be quantised here, before anything loads.

    Args:
        model: as a config names it; without `quantization` there is nothing to check.

    Raises:
        ConfigError: bitsandbytes is not installed.
        ModelError: there is no CUDA GPU.
    """
    if model.quantization is None:
        return
    if not torch.cuda.is_available():
        raise ModelError(
            f"model.quantization = {model.quantization!r} needs a CUDA GPU, and there is none; leave it out"
        )
    if find_spec("bitsandbytes") is None:
        raise ConfigError("model.quantization needs bitsandbytes; pip install 'prefopt[bitsandbytes]'")


def quantized(model: ModelConfig) -> dict[str, Any]:
    """What transformers' `from_pretrained` takes to quantise while it loads; nothing where the config does not ask.

    4 bit is NF4 with the scales quantised once more, as QLoRA has it (Dettmers et al., arXiv 2305.14314); 8 bit is
    LLM.int8() (arXiv 2208.07339). Norms, embeddings and the head stay in `dtype`.
    """
    if model.quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    if model.quantization == "8bit":
        settings = BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    else:
        settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, model.autocast or model.dtype),
        )
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether a loaded model holds its weights in few bits."""
    return bool(getattr(model, "is_quantized", False))

"""Random models of every architecture the engine is proved on, small enough for a test."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CodeGenConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

ARCHITECTURES = ("llama", "qwen2", "gemma2", "gpt2", "gpt_neox")


def tiny_model(
    name: str, *, vocab_size: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model whose weights are large enough that positions and masks matter."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(name, vocab_size))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.to(dtype)


def _config(name: str, vocab_size: int) -> PretrainedConfig:
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    grouped = {**shape, "num_key_value_heads": 2}
    if name == "llama":
        return LlamaConfig(**grouped)
    if name == "qwen2":
        return Qwen2Config(**grouped)
    if name == "gemma2":
        return Gemma2Config(**grouped, head_dim=8, final_logit_softcapping=5.0, attn_logit_softcapping=20.0)
    if name == "gemma2_sliding":
        return Gemma2Config(**grouped, head_dim=8, final_logit_softcapping=5.0, sliding_window=4)
    if name == "opt":
        return OPTConfig(**shape, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0)
    if name == "mamba":
        return MambaConfig(**shape, state_size=4)
    if name == "codegen":
        return CodeGenConfig(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64)
    if name == "gpt2":
        return GPT2Config(
            vocab_size=vocab_size,
            n_embd=32,
            n_layer=2,
            n_head=4,
            bos_token_id=1,
            eos_token_id=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    return GPTNeoXConfig(**shape)

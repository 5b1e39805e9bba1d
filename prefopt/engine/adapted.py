"""Models that hold an adapter: copies that share what is not trained, the base alone, and the two merged."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefopt.engine.ranks import whole

NAME = "default"
"""What peft calls the adapter inside the model; it does not show in what is saved."""
# peft's own view of the model, which alone can save and remove every type of adapter. It wraps the model, so it is kept
# beside the modules, not among them.
_WRAPPER = "_adapted_by_peft"
# Settings of LoRA that take a part of the base's weights into the adapter, or repeat its layers.
_CHANGE_BASE = ("corda_config", "kasa_config", "layer_replication", "loftq_config", "lora_ga_config")


def wrap(model: PreTrainedModel, config: Any) -> nn.Module:
    """Put a peft adapter into the model, in place.

    Args:
        model: keeps its type; some of its layers become peft's.
        config: peft's settings.

    Returns:
        peft's view of the model.
    """
    import peft

    wrapped: nn.Module = peft.get_peft_model(model, config, adapter_name=NAME)
    model.__dict__[_WRAPPER] = wrapped
    model._hf_peft_config_loaded = True  # transformers' own mark: checkpointing then lets gradients through the base
    return wrapped


def wrapper_of(model: PreTrainedModel) -> Any:
    """Peft's view of the model, or None where it holds no adapter that `wrap` has put in."""
    return model.__dict__.get(_WRAPPER)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A frozen copy for later comparison that costs no more memory than what the model trains.

    Weights in training are copied as they are now; all others, and buffers, are the model's own.
    """
    found = _copy(model, shared=[*(own for own in model.parameters() if not own.requires_grad), *model.buffers()])
    return found.requires_grad_(False)


def base_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its adapter, frozen: the same weights in memory, and no second copy of them.

    Args:
        model: one whose adapter leaves its base as it is (see `changes_base`).
    """
    from peft.utils import ModulesToSaveWrapper

    found = twin(model)
    for name, module in list(found.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # of which peft would leave the trained copy
            found.set_submodule(name, module.original_module)
    with _untold():
        wrapper_of(found).unload()
    return _plain(found)


def changes_base(model: PreTrainedModel) -> bool:
    """Whether the adapter has put, or trains, other weights in the place of some of its base's.

    Without it the model is then not its base.
    """
    settings = wrapper_of(model).peft_config[NAME]
    if getattr(settings, "bias", "none") != "none":
        return True
    begin = getattr(settings, "init_lora_weights", True)
    return begin not in (True, False, "gaussian") or any(getattr(settings, name, None) for name in _CHANGE_BASE)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The base with the adapter added to its weights, a plain model; the given one stays as it is.

    Layers without an adapter share their weights with it.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    changed = {id(own) for layer in layers for own in (*layer.parameters(), *layer.buffers())}
    everything = (*model.parameters(), *model.buffers())
    found = _copy(model, shared=(own for own in everything if id(own) not in changed and not own.requires_grad))
    holders: dict[int, set[int]] = {}
    for module in found.modules():
        for own in module.parameters(recurse=False):
            holders.setdefault(id(own), set()).add(id(module))
    for layer in [module for module in found.modules() if isinstance(module, BaseTunerLayer)]:
        if not isinstance(layer, TrainableTokensLayer):  # those of tied embeddings change the same rows alike
            _untie(layer.get_base_layer(), holders)
    with torch.no_grad(), _untold():
        wrapper_of(found).merge_and_unload()
    return _plain(found)


def adapter_weights(model: PreTrainedModel) -> tuple[dict[str, Tensor], Any]:
    """What peft saves of the adapter: its weights by name, none sharing memory with another, and its settings."""
    import peft

    wrapped = wrapper_of(model)
    # Embeddings an adapter targets are those of the base, and come with it.
    weights: Mapping[str, Tensor] = peft.get_peft_model_state_dict(
        wrapped, state_dict=wrapped.state_dict(keep_vars=True), adapter_name=NAME, save_embedding_layers=False
    )
    settings = copy.deepcopy(wrapped.peft_config[NAME])
    settings.inference_mode = True
    return {name: whole(own).detach().clone().contiguous() for name, own in weights.items()}, settings


def active(module: nn.Module) -> nn.Module:
    """The module that computes: of one that an adapter trains as a whole (`modules_to_save`), the trained copy."""
    copies = getattr(module, "modules_to_save", None)
    if not isinstance(copies, nn.ModuleDict) or NAME not in copies:
        return module
    return copies[NAME]


def _copy(model: PreTrainedModel, *, shared: Iterable[Tensor]) -> PreTrainedModel:
    return copy.deepcopy(model, {id(own): own for own in shared})


def _untie(module: nn.Module, holders: Mapping[int, set[int]]) -> None:
    """Give the module weights of its own where another one, which is to stay as it is, holds the same."""
    for name, own in list(module.named_parameters(recurse=False)):
        if len(holders[id(own)]) > 1:
            setattr(module, name, nn.Parameter(own.detach().clone(), requires_grad=own.requires_grad))


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The model after its last adapter is gone."""
    del model.__dict__[_WRAPPER]
    model._hf_peft_config_loaded = False
    return model.requires_grad_(False)


@contextmanager
def _untold() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of embeddings that are no longer tied, which the saved config says
        yield

"""An independent truth: transformers' own forward on one row, without packing, chunks or padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefopt.data.row import Completion


def live_token_logps(model: PreTrainedModel, prompt: Sequence[int], completion: Completion) -> Tensor:
    """[n] log-probs of the scored tokens of a completion, with their graph."""
    ids = torch.tensor([[*prompt, *completion.ids]])
    logps = model(ids).logits[0].log_softmax(-1)
    places = [place for place, scored in enumerate(completion.scored) if scored]
    rows = torch.tensor([len(prompt) + place - 1 for place in places])
    return logps[rows, torch.tensor([completion.ids[place] for place in places])]


@torch.no_grad()
def token_logps(model: PreTrainedModel, prompt: Sequence[int], completion: Completion) -> Tensor:
    """[n] the same without a graph."""
    return live_token_logps(model, prompt, completion)

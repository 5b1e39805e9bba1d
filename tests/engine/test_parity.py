from __future__ import annotations

import pytest
import torch

from prefopt.data.trees import grow
from prefopt.engine.parity import takes_trees
from tests.engine.rows import random_rows
from tests.models import ARCHITECTURES, tiny_model

TREES = grow([(row.prompt, completion) for row in random_rows("pairs", 4) for completion in row.completions])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_models_with_full_attention_take_trees(architecture, dtype):
    # Weights as in a trained model: random large ones amplify the rounding of bfloat16 beyond any real model's.
    model = tiny_model(architecture, dtype=dtype)
    if dtype == torch.bfloat16:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.3) if parameter.dim() > 1 else None
    assert takes_trees(model, TREES)[0]


def test_a_sliding_window_is_found_out():
    fits, gap = takes_trees(tiny_model("gemma2_sliding"), TREES)
    assert not fits
    assert gap > 0.01

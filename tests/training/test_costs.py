from __future__ import annotations

import pytest
import torch

from prefopt.training.costs import step_costs
from prefopt.training.memory import peak_process_bytes


def test_throughput_is_tokens_over_seconds():
    found = step_costs(300, 1.5)
    assert found["tokens_per_second"] == 200
    assert found["step_seconds"] == 1.5
    assert ("peak_cuda_bytes" in found) == torch.cuda.is_available()


def test_the_peak_grows_with_what_was_held():
    before = step_costs(1, 1.0)["peak_memory_bytes"]
    held = torch.ones(before // 4 + 5_000_000)  # float32: more than all that was held so far
    after = step_costs(1, 1.0)["peak_memory_bytes"]
    assert after == pytest.approx(peak_process_bytes(), rel=0.05)
    assert after >= held.numel() * 4


def test_a_step_too_short_for_the_clock_divides_by_no_zero():
    assert step_costs(5, 0.0)["tokens_per_second"] > 0

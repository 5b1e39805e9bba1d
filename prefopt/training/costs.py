"""What a step costs: time, throughput, memory."""

from __future__ import annotations

import torch

from prefopt.training.memory import peak_process_bytes


def step_costs(num_tokens: int, seconds: float) -> dict[str, float]:
    """Throughput, and the most memory this process has held so far.

    Args:
        num_tokens: tokens that all ranks computed in the step's passes with gradient.
        seconds: how long the step took.

    Returns:
        `step_seconds`, `tokens_per_second`, `peak_memory_bytes`, and `peak_cuda_bytes` where there is a GPU.
    """
    found = {
        "step_seconds": round(seconds, 4),
        "tokens_per_second": round(num_tokens / max(seconds, 1e-9), 1),
        "peak_memory_bytes": peak_process_bytes(),
    }
    if torch.cuda.is_available():
        found["peak_cuda_bytes"] = torch.cuda.max_memory_allocated()
    return found

"""What both sides of a comparison measure, and what the machine could do at best."""

import statistics
import time
from pathlib import Path

import torch

from prefopt.training.memory import peak_process_bytes


def peak_bytes():
    """The most memory this process has held: on the GPU where there is one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return peak_process_bytes()


def resident_bytes():
    """What this process holds now, mapped pages included; Linux only."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def matmul_flops_per_second(dtype, device, threads):
    """The rate of a large matrix product: the median of seven, after two to warm up."""
    torch.set_num_threads(threads)
    side = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    rates = []
    for _ in range(9):
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(2 * side**3 / (time.perf_counter() - started))
    return statistics.median(rates[2:])

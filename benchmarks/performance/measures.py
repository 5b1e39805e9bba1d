"""What both sides of a comparison measure, and what the machine could do at best."""

import resource
import statistics
import sys
import time
from pathlib import Path

import torch


def peak_bytes():
    """The most memory this process has held: on the GPU where there is one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    # A child's ru_maxrss begins at what its parent held when it was started; Linux's high-water mark begins anew.
    status = Path("/proc/self/status")
    if status.exists():
        (mark,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(mark.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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

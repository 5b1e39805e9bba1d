"""Run by `torchrun` in two gloo processes: the measures of one step on both ranks; JSON into argv[1]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from prefopt.engine.ranks import Ranks
from tests.training.measured import CASES, measured


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    found = {" ".join(case): measured(*case, tokens_per_microbatch=50, ranks=ranks)[0] for case in CASES}
    Path(sys.argv[1] + str(ranks.index)).write_text(json.dumps(found))
    dist.destroy_process_group()


main()

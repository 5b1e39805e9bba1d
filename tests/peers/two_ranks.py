"""Run by `torchrun` in two gloo processes: what needs more than one rank; JSON into argv[1] of each."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import sys
import warnings
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from prefopt.cli.app import main as command_line
from prefopt.config import load_config
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.precompute import precompute
from tests.engine.rows import kind_of
from tests.models import tiny_model
from tests.peers.rows import even_rows
from tests.peers.runs import REGISTRY


def gradient(policy, reference, loss, rows, budget, ranks):
    policy.zero_grad()
    accumulate(policy, reference, loss, rows, tokens_per_microbatch=budget, ranks=ranks)
    return torch.cat([own.grad.flatten() for own in policy.parameters() if own.grad is not None]).double()


def gap(found, truth):
    return float((found - truth).norm() / truth.norm())


def gradients(ranks, architecture, dtype):
    """Of every loss on 7 rows, which two ranks cannot share evenly: how far from one rank's, and this rank's bits."""
    policy, reference = (Scorer(tiny_model(architecture, seed=seed, dtype=dtype)) for seed in (0, 1))
    spread = DistributedDataParallel(copy.deepcopy(policy))
    found = {}
    for name in sorted(REGISTRY.losses):
        loss = REGISTRY.loss(name)
        rows = even_rows(kind_of(loss), 7)
        truth = gradient(policy, reference, loss, rows, 10**6, ALONE)
        grad = gradient(spread, reference, loss, rows, 30, ranks)
        digest = hashlib.sha256(grad.numpy().tobytes()).hexdigest()
        found[name] = {"gap": gap(grad, truth), "digest": digest}
    return found


def own_part(ranks):
    """How far a rank's own micro-batches alone are from the gradient of the whole batch."""
    policy, reference = (Scorer(tiny_model("gpt2", seed=seed, dtype=torch.float64)) for seed in (0, 1))
    loss, rows = REGISTRY.loss("dpo"), even_rows("pairs", 7)
    truth = gradient(policy, reference, loss, rows, 10**6, ALONE)
    return gap(gradient(policy, reference, loss, rows[ranks.index :: 2], 10**6, ALONE), truth)


def stores(folder):
    """Scores into a store of its own, and reads what another process has scored."""
    found = {}
    for name in ("own", "there"):
        config = load_config(folder / f"{name}.yaml")
        found[name] = precompute(config, REGISTRY.loss("dpo"))
    return found


def trained(folder):
    """`prefopt train` in both processes."""
    sys.argv = ["prefopt", "train", str(folder / "train.yaml")]
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        try:
            command_line()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return {"code": code, "told": told.getvalue()[-2000:]}


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    found = {"stores": stores(folder)}
    ranks = Ranks.started()
    assert ranks.count == 2
    found["gradients"] = {
        "float64": gradients(ranks, "gpt2", torch.float64),
        "float32": gradients(ranks, "llama", torch.float32),
    }
    found["own part"] = own_part(ranks)
    found["train"] = trained(folder)
    (folder / f"rank{ranks.index}.json").write_text(json.dumps(found))


main()

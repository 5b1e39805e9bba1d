"""One run of prefopt's trainer on rows of token ids; prints what it measured as one line of JSON.

Started by vs_trl.py and ledger.py in a process of its own, so that the peak memory is its own.
"""

import copy
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from measures import peak_bytes

import prefopt
from prefopt.config import ModelConfig, TrainingConfig
from prefopt.data.row import Completion, Row
from prefopt.engine.accumulation import accumulate
from prefopt.engine.head import _Scratch
from prefopt.engine.loading import load_model
from prefopt.engine.logps import Scorer
from prefopt.reference.identity import identify
from prefopt.reference.reading import StoredReference
from prefopt.reference.scoring import fill
from prefopt.reference.store import Store
from prefopt.training import trainer as trainer_module
from prefopt.training.trainer import Trainer


def completion(ids):
    return Completion(tuple(ids), (True,) * len(ids))


class Fresh(_Scratch):
    """New memory for every chunk of logits, and none kept for the backward pass."""

    @property
    def owner(self):
        return None

    @owner.setter
    def owner(self, _):
        self._room = None


def fresh_chunks(policy):
    object.__setattr__(policy.head, "_scratch", Fresh())


def plain_adamw(_):
    trainer_module.build_optimizer = lambda parameters, training: torch.optim.AdamW(
        parameters, lr=training.learning_rate, weight_decay=0.0
    )


def compiled_mlp(policy):
    for layer in policy.model.base_model.layers:
        layer.mlp.compile(dynamic=True)
        layer.input_layernorm.compile(dynamic=True)
        layer.post_attention_layernorm.compile(dynamic=True)


SWITCHES = {one.__name__: one for one in (fresh_chunks, plain_adamw, compiled_mlp)}


def main(job):
    torch.set_num_threads(job["threads"])
    rows = [
        Row(
            kind="pairs",
            source=job["rows"],
            number=number,
            prompt=tuple(row["prompt_ids"]),
            completions=(completion(row["chosen_ids"]), completion(row["rejected_ids"])),
        )
        for number, row in enumerate(json.loads(Path(job["rows"]).read_text()), 1)
    ]
    loss = prefopt.get_loss("dpo", beta=0.1)
    settings = ModelConfig(name=job["model"], dtype=job["dtype"], attention=job.get("attention"))
    model = load_model(settings)
    policy = Scorer(model.to(job["device"]), packed=job.get("packed", True), chunked_head=job.get("chunked_head", True))
    for switch in job.get("switches", ()):
        SWITCHES[switch](policy)
    budget = job["tokens_per_microbatch"]
    started = time.perf_counter()
    if job["mode"] == "precomputed":
        # Beside the rows, in a folder that goes with them; reading it is a part of every step.
        store = Store(tempfile.mkdtemp(dir=Path(job["rows"]).parent), identify(settings).digest)
        store.check_writable()
        fill(store, rows, lambda _: policy, tokens_per_microbatch=budget, made_by={})
        full = torch.promote_types(policy.model.dtype, torch.float32)
        reference = StoredReference(store, device=policy.device, dtype=full)
    else:
        reference = copy.deepcopy(policy)
    scoring = time.perf_counter() - started if job["mode"] == "precomputed" else 0.0
    training = TrainingConfig(
        batch_size=job["batch_size"],
        tokens_per_microbatch=budget,
        learning_rate=job["learning_rate"],
        scheduler="constant",
        max_grad_norm=1.0,
        seed=0,
        gradient_checkpointing=job.get("gradient_checkpointing", False),
    )
    if job.get("gradient"):
        accumulate(policy, reference, loss, rows[: job["batch_size"]], tokens_per_microbatch=budget)
        torch.save(torch.cat([each.grad.flatten() for each in policy.parameters()]), job["gradient"])
        print("{}")
        return
    trainer = Trainer(policy, reference, loss, rows, training)
    steps = []
    trainer.run(lambda step: steps.append(step.metrics))
    print(
        json.dumps(
            {
                "losses": [step["loss"] for step in steps],
                "step_seconds": [step["step_seconds"] for step in steps],
                "scoring_seconds": scoring,
                "peak_bytes": peak_bytes(),
            }
        )
    )


main(json.loads(sys.argv[1]))

"""One run of TRL's DPOTrainer on rows of token ids; prints what it measured as one line of JSON.

Started by vs_trl.py in a process of its own, so that the peak memory is its own.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from measures import peak_bytes
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class Clock(TrainerCallback):
    """Wall seconds of each optimiser step, from its first forward pass to its update."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *_, **__):
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.started)


class PreTokenised(DPOTrainer):
    """The rows are token ids already, the same as the other side's."""

    scoring_seconds = 0.0

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _precompute_ref_logps(self, *arguments):
        started = time.perf_counter()
        scored = super()._precompute_ref_logps(*arguments)
        self.scoring_seconds = time.perf_counter() - started
        return scored


def main(job):
    torch.set_num_threads(job["threads"])
    rows = json.loads(Path(job["rows"]).read_text())
    load = {"dtype": getattr(torch, job["dtype"]), "attn_implementation": "sdpa"}
    model = AutoModelForCausalLM.from_pretrained(job["model"], **load)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=job["batch_size"],
            num_train_epochs=1,
            learning_rate=job["learning_rate"],
            lr_scheduler_type="constant",
            beta=0.1,
            max_length=None,
            precompute_ref_log_probs=job["mode"] == "precomputed",
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=job["device"] == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = PreTokenised(
            model=model,
            ref_model=None
            if job["mode"] == "precomputed"
            else AutoModelForCausalLM.from_pretrained(job["model"], **load),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(job["model"]),
            callbacks=[clock],
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(
        json.dumps(
            {
                "losses": losses,
                "step_seconds": clock.seconds,
                "scoring_seconds": trainer.scoring_seconds,
                "peak_bytes": peak_bytes(),
            }
        )
    )


main(json.loads(sys.argv[1]))

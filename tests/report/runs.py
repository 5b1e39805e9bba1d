"""Output folders as runs leave them, made up: noisy curves, the same at every call."""

from __future__ import annotations

import json
import math
import random

import yaml

from prefopt.config import parse_config, to_yaml


def write_run(folder, *, loss="dpo", num_steps=60, seed=0, finished=True, cut=False, every=20, warnings=(), **settings):
    """A run of `num_steps` steps; the keyword arguments left over are settings of its training section."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    config = parse_config(
        {
            "model": "some/model",
            "data": {"train": "pairs.jsonl", "evaluation": "held_out.jsonl"},
            "loss": loss,
            "training": {"max_steps": num_steps if finished else 2 * num_steps, "seed": seed, **settings},
            "evaluation": {"every_steps": every},
            "output_dir": str(folder),
        }
    )
    (folder / "config.resolved.yaml").write_text(to_yaml(config))
    name = yaml.safe_load(to_yaml(config))["loss"]["name"]
    lines = [json.dumps(step(number, num_steps, draw, name, every)) for number in range(1, num_steps + 1)]
    text = "\n".join(lines) + "\n"
    (folder / "metrics.jsonl").write_text(text + lines[-1][:40] if cut else text)
    if finished:
        record = {
            "prefopt": "0.1.0",
            "loss": name,
            "seed": seed,
            "num_steps": num_steps,
            "data": {"notes": []},
            "warnings": list(warnings),
            "evaluation": {"before": evaluation(0.0), "after": evaluation(1.0)},
            "wall_seconds": 75.0,
            "peak_memory_bytes": {"process": 3 * 2**29},
        }
        (folder / "run.json").write_text(json.dumps(record))
    return folder


def step(number, num_steps, draw, loss, every):
    done = number / num_steps
    noise = draw.gauss(0, 0.05)
    margin = 3 * done + noise
    found = {
        "step": number,
        "loss": math.log1p(math.exp(-margin)),
        "reward_accuracy": min(1.0, 0.5 + 0.4 * done + noise),
        "reward_margin": margin,
        "chosen_reward": -done + noise,
        "rejected_reward": -4 * done,
        "chosen_logps": -80 - 10 * done + 20 * noise,
        "rejected_logps": -85 - 40 * done,
        "chosen_length": 60 + 30 * noise,
        "rejected_length": 64 - 30 * noise,
        "saturated": max(0.0, done - 0.5),
        "grad_norm": 5 * math.exp(-2 * done + noise),
        "learning_rate": 1e-5 * (1 - done),
        "num_rows": 16,
        "num_tokens": 4000,
        "step_seconds": 0.5 + 0.1 * abs(noise),
        "tokens_per_second": 8000 * (1 - abs(noise)),
        "peak_memory_bytes": int(2**30 * (1 + 0.4 * min(1, 5 * done))),
    }
    if loss != "simpo":
        found |= {
            "kl_per_token": 0.2 * done**2,
            "chosen_log_ratio": -10 * done + 20 * noise,
            "rejected_log_ratio": -40 * done,
        }
    if loss == "kto":
        found["kl"] = 0.3 * done
    if number % every == 0 and number < num_steps:
        found["evaluation"] = evaluation(done)
    return found


def evaluation(done):
    accuracy = 0.5 + 0.3 * done
    return {
        "loss": 0.69 - 0.3 * done,
        "num_pairs": 200,
        "reward_accuracy": accuracy,
        "reward_accuracy_interval": [accuracy - 0.06, accuracy + 0.06],
        "reward_margin": 2 * done,
    }

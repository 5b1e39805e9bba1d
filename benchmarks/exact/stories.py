"""What papers say of each other's losses, put to the records of a suite: does it come out where the truth is known?

    prefopt bench run stories
    python benchmarks/exact/stories.py runs/bench/stories

Each story is a paired difference over held-out seeds with a bootstrap interval, its t-test Holm-corrected over all
rows. "tuned" compares what each method reaches with its whole budget of trials. "same settings" compares trial by trial
at equal learning rate and beta, each trial's own frontier alone: what somebody finds who does not search.
"""

import argparse
from pathlib import Path

import numpy as np

from prefopt.bench.estimate import Estimate
from prefopt.bench.record import read_records
from prefopt.bench.results import Results
from prefopt.bench.scores import optimal_areas
from prefopt.bench.statistics import holm, paired_test, upper_hull

PLAIN = ("bradley_terry", {})
SHARP = ("near_deterministic", {})
LONG = ("length_bias", {})
WEAK = ("weak_reference", {})


def noisy(noise):
    return ("label_noise", {"noise": noise})


def labels(desirable):
    return ("imbalanced_labels", {"desirable": desirable})


# (story, task and knobs, the one said to be ahead, the other, how they are compared)
STORIES = [
    ("IPO ahead at near-deterministic preferences", SHARP, "ipo", "dpo", "tuned"),
    ("... at the same beta", SHARP, "ipo", "dpo", "same settings"),
    ("... at the same beta, below 0.1", SHARP, "ipo", "dpo", "same settings, beta < 0.1"),
    *(
        (f"{name} DPO ahead at {noise:.0%} noise", noisy(noise), loss, "dpo", how)
        for noise in (0.1, 0.2, 0.4)
        for name, loss in (("label-smoothed", "cdpo"), ("robust", "robust"))
        for how in ("tuned", "same settings")
    ),
    ("length-regularised DPO ahead under length bias", LONG, "r_dpo", "dpo", "tuned"),
    ("SimPO ahead under length bias", LONG, "simpo", "dpo", "tuned"),
    ("length-normalised DPO ahead under length bias", LONG, "sigmoid_norm", "dpo", "tuned"),
    ("SimPO ahead behind a weak reference", WEAK, "simpo", "dpo", "tuned"),
    ("KTO usable with labels, 10 % up", labels(0.1), "kto", "reference", "tuned"),
    ("KTO ahead of DPO on their pairs, 10 % up", labels(0.1), "kto", "dpo", "tuned"),
    ("KTO ahead of DPO on their pairs, 90 % up", labels(0.9), "kto", "dpo", "tuned"),
    ("DPO ahead of Preferred-FT", PLAIN, "dpo", "sft", "tuned"),
    ("DPO ahead of PPO on a reward model", PLAIN, "dpo", "ppo", "tuned"),
    ("... at equal KL, half the range", PLAIN, "dpo", "ppo", "equal KL"),
    ("... behind a weak reference", WEAK, "dpo", "ppo", "tuned"),
    ("DPO ahead of the exact optimum on a reward model", PLAIN, "dpo", "optimum_reward_model", "tuned"),
    ("PPO ahead of DPO at 40 % noise", noisy(0.4), "ppo", "dpo", "tuned"),
    ("40 % noise costs DPO more than PPO", noisy(0.4), "ppo", "dpo", "against no noise"),
]


class Records:
    """The scores and the held-out records of a suite."""

    def __init__(self, folder):
        records = read_records(folder)
        self.results = Results.of(records)
        self.held_out = [one for one in records if one["split"] == "held_out" and one["status"] == "done"]

    def score(self, where, method):
        task, knobs = where
        return next(
            score
            for (setting, name), score in self.results.scores.items()
            if name == method and setting.task == task and knobs.items() <= dict(setting.knobs).items()
        )

    def trials(self, where, method):
        """The trials' hyper-parameters, and [T, S] the area under each trial's own frontier."""
        task, knobs = where
        record = next(
            one
            for one in self.held_out
            if one["method"] == method and one["task"] == task and knobs.items() <= one["knobs"].items()
        )
        kl, reward = (np.array(record["metrics"][name], dtype=float) for name in ("kl", "reward"))
        gain = reward - np.array(record["reference_reward"])[:, None]
        return record["trials"], upper_hull(kl, gain).area(record["max_kl"]) / optimal_areas(record)

    def values(self, where, method, how):
        """[S] what is compared."""
        if how == "tuned":
            return np.array(self.score(where, method).area.values)
        if how == "equal KL":
            return np.array(self.score(where, method).gain.values)
        if how == "against no noise":
            return self.values(where, method, "tuned") - self.values(PLAIN, method, "tuned")
        trials, areas = self.trials(where, method)
        limit = 0.1 if how.endswith("beta < 0.1") else np.inf
        kept = [trial.get("beta", trial.get("tau")) < limit for trial in trials]
        return areas[kept].mean(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="results of the suite: runs/bench/stories")
    records = Records(parser.parse_args().folder)
    found = []
    for story, where, ahead, other, how in STORIES:
        first, second = records.values(where, ahead, how), records.values(where, other, how)
        found.append((story, how, Estimate.of(first - second), float(paired_test(first, second))))
    print("| story | compared | difference of area | p (Holm) | verdict |\n|---|---|---|---|---|")
    for (story, how, difference, _), p in zip(found, holm([row[3] for row in found]), strict=True):
        low, high = difference.interval
        verdict = "no difference found" if p >= 0.05 else "holds" if difference.mean > 0 else "the other way round"
        print(f"| {story} | {how} | {difference.mean:+.3f} [{low:+.3f}, {high:+.3f}] | {p:.3f} | {verdict} |")


if __name__ == "__main__":
    main()

"""The theory of the DPO paper, shown: in a well-specified world DPO learns pi_ref exp(r / beta) / Z.

    python benchmarks/exact/theory.py [--output runs/theory]

First DPO is trained on the exact expected loss, over all pairs by enumeration: its frontier against the optimum's.
Then on samples, ever more of them: how far the learned policy is from pi_ref exp(r / beta) / Z, and how fast that
falls. Prints what docs/benchmark.md shows, writes it as theory.json and draws theory.html. About a minute on one core.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from rich.console import Console
from rich.table import Table

import prefopt
from prefopt.bench.losses import LossMethod
from prefopt.bench.statistics import mean_interval, upper_hull
from prefopt.method import Budget
from prefopt.worlds import World, Worlds, exact

SEEDS = tuple(range(5))
WORLD = {"num_prompts": 4, "depth": 4}
BETAS = np.geomspace(0.12, 4.0, 16)
NUM_ROWS = [2**power for power in range(7, 18)]
BETA = 1.0  # of the runs on samples


def dpo():
    return LossMethod(prefopt.load_registry().losses["dpo"])


def stacked(worlds):
    return Worlds.of(worlds, SEEDS)


def frontier():
    """The frontier of DPO on the expected loss, and [S] its area over the optimum's."""
    worlds = stacked([World.draw(seed, **WORLD).enumerated() for seed in SEEDS])
    trials = [{"learning_rate": 0.3, "beta": float(beta)} for beta in BETAS]
    logps = dpo().policies(trials, worlds, Budget(1500, None, (1500,)))[:, :, 0]
    kl = exact.kl(logps, worlds.logps).mean(-1).numpy()
    reference = exact.expectation(worlds.logps, worlds.reward).mean(-1).numpy()
    gain = exact.expectation(logps, worlds.reward).mean(-1).numpy() - reference
    grid = torch.linspace(0, worlds.max_kl, 301, dtype=torch.float64)
    best = exact.frontier(worlds.logps, worlds.reward, grid).numpy() - reference[:, None]
    areas = upper_hull(kl.T, gain.T).area(worlds.max_kl) / np.trapezoid(best, grid.numpy(), axis=-1)
    distance = [
        exact.kl(logps[index], exact.optimum(worlds.logps, worlds.reward, float(beta))).mean().item()
        for index, beta in enumerate(BETAS)
    ]
    return {
        "beta": BETAS.tolist(),
        "kl": kl.mean(1).tolist(),
        "gain": gain.mean(1).tolist(),
        "distance": distance,
        "optimum": {"kl": grid.tolist(), "gain": best.mean(0).tolist()},
        "area_ratio": areas.tolist(),
    }


def convergence():
    """How far DPO on samples is from the optimum of its beta: KL(learned || optimum), [rows][S]."""
    distances = []
    for num_rows in NUM_ROWS:
        worlds = stacked([World.draw(seed, num_rows=num_rows, **WORLD) for seed in SEEDS])
        logps = dpo().policies(
            [{"learning_rate": 0.1, "beta": BETA}], worlds, Budget(600, min(num_rows, 4096), (600,))
        )[0, :, 0]
        optimum = exact.optimum(worlds.logps, worlds.reward, BETA)
        distances.append(exact.kl(logps, optimum).mean(-1).tolist())
    slope = np.polyfit(np.log(NUM_ROWS[3:]), np.log(np.mean(distances[3:], axis=1)), 1)[0]
    return {"rows": NUM_ROWS, "distance": distances, "slope": float(slope)}


def draw(found, path):
    """Both plots as one page."""
    curve, samples = found["frontier"], found["convergence"]
    figure = go.Figure()
    figure.add_scatter(x=curve["optimum"]["kl"], y=curve["optimum"]["gain"], name="optimum", mode="lines")
    figure.add_scatter(x=curve["kl"], y=curve["gain"], name="DPO, expected loss", mode="markers")
    figure.update_layout(
        title="DPO on the expected loss lies on the frontier",
        xaxis_title="KL(policy || reference), nats",
        yaxis_title="reward above the reference",
        template="simple_white",
    )
    second = go.Figure()
    for seed in range(len(SEEDS)):
        second.add_scatter(
            x=samples["rows"],
            y=[row[seed] for row in samples["distance"]],
            name=f"seed {SEEDS[seed]}",
            mode="lines+markers",
        )
    second.update_layout(
        title=f"DPO on samples approaches the optimum: KL falls as rows^{samples['slope']:.2f}",
        xaxis={"title": "pairs", "type": "log"},
        yaxis={"title": "KL(learned || optimum), nats", "type": "log"},
        template="simple_white",
    )
    page = figure.to_html(full_html=False, include_plotlyjs=True) + second.to_html(
        full_html=False, include_plotlyjs=False
    )
    path.write_text(f"<!doctype html><meta charset=utf-8><title>theory</title>{page}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/theory"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {"frontier": frontier(), "convergence": convergence()}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "theory.json").write_text(json.dumps(found, indent=1))
    draw(found, args.output / "theory.html")

    console = Console(width=100)
    ratios = found["frontier"]["area_ratio"]
    low, high = mean_interval(ratios)
    console.print(
        f"area ratio on the expected loss: {np.mean(ratios):.4f} [{low:.4f}, {high:.4f}], least {min(ratios):.4f}"
    )
    table = Table("pairs", "KL(learned || optimum), nats", "95 % interval")
    for rows, distance in zip(NUM_ROWS, found["convergence"]["distance"], strict=True):
        low, high = mean_interval(distance)
        table.add_row(f"{rows:,}", f"{np.mean(distance):.4f}", f"{low:.4f} to {high:.4f}")
    console.print(table)
    console.print(f"from {NUM_ROWS[3]:,} pairs on the KL falls as pairs^{found['convergence']['slope']:.2f}")
    console.print(f"page: {args.output / 'theory.html'}")


if __name__ == "__main__":
    main()

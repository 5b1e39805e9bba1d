"""The six losses once more, for one row at a time, in arbitrary precision and straight from the papers.

Nothing here is shared with the losses under test: no tensors, no log-space rearrangements, 60 digits instead.
Each function takes the row as a dict of plain numbers: pc, pr, rc, rr, nw, nl for pairs and demonstrations;
p, r, n, desirable, kl for labels. Each gradient is the derivative with respect to the policy's log-probs.
"""

from mpmath import inf, mp, mpf

mp.dps = 60


def sigmoid(x):
    return 1 / (1 + mp.exp(-x)) if x >= 0 else mp.exp(x) / (1 + mp.exp(x))


def softplus(x):
    return max(x, mpf(0)) + mp.log1p(mp.exp(-abs(x)))


def dpo(row, beta):
    return softplus(-beta * ((row["pc"] - row["rc"]) - (row["pr"] - row["rr"])))


def dpo_gradient(row, beta):
    gap = (row["pc"] - row["rc"]) - (row["pr"] - row["rr"])
    return {"pc": -beta * sigmoid(-beta * gap), "pr": beta * sigmoid(-beta * gap)}


def _ipo_gap(row, length_normalized):
    nw, nl = (row["nw"], row["nl"]) if length_normalized else (1, 1)
    return (row["pc"] - row["rc"]) / nw - (row["pr"] - row["rr"]) / nl


def ipo(row, tau, length_normalized):
    return (_ipo_gap(row, length_normalized) - 1 / (2 * tau)) ** 2


def ipo_gradient(row, tau, length_normalized):
    slope = 2 * (_ipo_gap(row, length_normalized) - 1 / (2 * tau))
    nw, nl = (row["nw"], row["nl"]) if length_normalized else (1, 1)
    return {"pc": slope / nw, "pr": -slope / nl}


def kto(row, beta, desirable_weight, undesirable_weight):
    value = beta * (row["p"] - row["r"] - row["kl"])
    if row["desirable"]:
        return desirable_weight * sigmoid(-value)
    return undesirable_weight * sigmoid(value)


def kto_gradient(row, beta, desirable_weight, undesirable_weight):
    value = beta * (row["p"] - row["r"] - row["kl"])
    slope = beta * sigmoid(value) * sigmoid(-value)
    return {"p": -desirable_weight * slope if row["desirable"] else undesirable_weight * slope}


def simpo(row, beta, gamma):
    return softplus(-(beta * (row["pc"] / row["nw"] - row["pr"] / row["nl"]) - gamma))


def simpo_gradient(row, beta, gamma):
    pull = beta * sigmoid(-(beta * (row["pc"] / row["nw"] - row["pr"] / row["nl"]) - gamma))
    return {"pc": -pull / row["nw"], "pr": pull / row["nl"]}


def odds(mean):
    """p / (1 - p) of p = e^mean."""
    return inf if mean == 0 else mp.exp(mean) / -mp.expm1(mean)


def orpo(row, lambda_, nll):
    chosen, rejected = odds(row["pc"] / row["nw"]), odds(row["pr"] / row["nl"])
    likelihood = -row["pc"] / row["nw"] if nll == "sequence" else -row["pc"]
    if rejected == inf:
        return inf
    return likelihood + lambda_ * (mpf(0) if chosen == inf else mp.log1p(rejected / chosen))


def orpo_gradient(row, lambda_, nll):
    """s(-log_odds) / (1 - p) is 0 / 0 where p = 1; its limit is written out, and None where there is none."""
    nw, nl = row["nw"], row["nl"]
    chosen, rejected = odds(row["pc"] / nw), odds(row["pr"] / nl)
    if chosen == rejected == inf:
        return {"pc": None, "pr": None}
    if chosen == inf:
        pull_up, pull_down = rejected, mpf(0)
    elif rejected == inf:
        pull_up, pull_down = 1 + chosen, inf
    else:
        wrong = rejected / (chosen + rejected)
        pull_up, pull_down = wrong * (1 + chosen), wrong * (1 + rejected)
    likelihood = 1 / nw if nll == "sequence" else mpf(1)
    return {"pc": -likelihood - lambda_ * pull_up / nw, "pr": lambda_ * pull_down / nl}


def sft(row, nll):
    return -row["pc"] / row["nw"] if nll == "sequence" else -row["pc"]


def sft_gradient(row, nll):
    return {"pc": -1 / row["nw"] if nll == "sequence" else mpf(-1)}


VALUES = {"dpo": dpo, "ipo": ipo, "kto": kto, "simpo": simpo, "orpo": orpo, "sft": sft}
GRADIENTS = {
    "dpo": dpo_gradient,
    "ipo": ipo_gradient,
    "kto": kto_gradient,
    "simpo": simpo_gradient,
    "orpo": orpo_gradient,
    "sft": sft_gradient,
}

"""The first six losses once more, straight from the papers and in 60 digits.

Nothing here is shared with the losses under test: no tensors, no log-space rearrangements. Each function takes the rows
of a batch as dicts of plain numbers and `fixed`, the same rows as constants, and returns one value per row; what a loss
detaches is computed from `fixed`, so that the derivative by an entry of `rows` is the gradient.
"""

from mpmath import inf, mp, mpf

mp.dps = 60


def sigmoid(x):
    return 1 / (1 + mp.exp(-x)) if x >= 0 else mp.exp(x) / (1 + mp.exp(x))


def softplus(x):
    return max(x, mpf(0)) + mp.log1p(mp.exp(-abs(x)))


def dpo(rows, fixed, beta):
    return [softplus(-beta * ((row["pc"] - row["rc"]) - (row["pr"] - row["rr"]))) for row in rows]


def ipo(rows, fixed, tau, length_normalized):
    losses = []
    for row in rows:
        nw, nl = (row["nw"], row["nl"]) if length_normalized else (1, 1)
        gap = (row["pc"] - row["rc"]) / nw - (row["pr"] - row["rr"]) / nl
        losses.append((gap - 1 / (2 * tau)) ** 2)
    return losses


def kto(rows, fixed, beta, desirable_weight, undesirable_weight):
    kl = sum(row["w"] * (row["mp"] - row["mr"]) for row in fixed) / sum(row["w"] for row in fixed)
    losses = []
    for row in rows:
        value = beta * (row["p"] - row["r"] - max(mpf(0), kl))
        losses.append(desirable_weight * sigmoid(-value) if row["desirable"] else undesirable_weight * sigmoid(value))
    return losses


def simpo(rows, fixed, beta, gamma):
    return [softplus(-(beta * (row["pc"] / row["nw"] - row["pr"] / row["nl"]) - gamma)) for row in rows]


def odds(mean):
    """p / (1 - p) of p = e^mean."""
    return inf if mean == 0 else mp.exp(mean) / -mp.expm1(mean)


def orpo(rows, fixed, lambda_, nll):
    losses = []
    for row in rows:
        chosen, rejected = odds(row["pc"] / row["nw"]), odds(row["pr"] / row["nl"])
        likelihood = -row["pc"] / row["nw"] if nll == "sequence" else -row["pc"]
        if rejected == inf:
            losses.append(inf)
        else:
            losses.append(likelihood + lambda_ * (mpf(0) if chosen == inf else mp.log1p(rejected / chosen)))
    return losses


def sft(rows, fixed, nll):
    return [-row["pc"] / row["nw"] if nll == "sequence" else -row["pc"] for row in rows]


VALUES = {"dpo": dpo, "ipo": ipo, "kto": kto, "simpo": simpo, "orpo": orpo, "sft": sft}

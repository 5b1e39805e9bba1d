"""Pairwise losses against a reference, once more: in arbitrary precision, straight from the papers.

Each function takes the rows as dicts of plain numbers (pc, pr, rc, rr: summed log-probs of policy and reference for
chosen and rejected; nw, nl: lengths; sw, sl: scores) and gives one value per row. `fixed` holds the same rows, for
what a loss takes as a constant; no loss here does.
"""

from mpmath import inf, mp, mpf

mp.dps = 60


def softplus(x):
    # Beyond any dtype: a power of a power would take mpmath minutes.
    return max(x, mpf(0)) + (mp.log1p(mp.exp(-abs(x))) if abs(x) < 1e5 else 0)


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def log_ratios(row):
    return row["pc"] - row["rc"], row["pr"] - row["rr"]


def gap(row):
    chosen, rejected = log_ratios(row)
    return chosen - rejected


def cdpo(rows, fixed, beta, label_smoothing):
    margins = [beta * gap(row) for row in rows]
    return [(1 - label_smoothing) * softplus(-x) + label_smoothing * softplus(x) for x in margins]


def robust(rows, fixed, beta, label_smoothing):
    margins = [beta * gap(row) for row in rows]
    return [
        ((1 - label_smoothing) * softplus(-x) - label_smoothing * softplus(x)) / (1 - 2 * label_smoothing)
        for x in margins
    ]


def rso_hinge(rows, fixed, beta):
    return [max(mpf(0), 1 - beta * gap(row)) for row in rows]


def exo_pair(rows, fixed, beta, label_smoothing):
    def divergence(x):
        q, rest = sigmoid(x), sigmoid(-x)
        return q * (mp.log(q) - mp.log(1 - label_smoothing)) + rest * (mp.log(rest) - mp.log(label_smoothing))

    return [divergence(beta * gap(row)) for row in rows]


def discopop(rows, fixed, beta, tau):
    margins = [beta * gap(row) for row in rows]
    return [sigmoid(-x / tau) * softplus(-x) + sigmoid(x / tau) * mp.exp(-x) for x in margins]


def r_dpo(rows, fixed, beta, alpha):
    return [softplus(-(beta * gap(row) + alpha * (row["nw"] - row["nl"]))) for row in rows]


def odpo(rows, fixed, beta, alpha, offset):
    offsets = {
        "score_gap": lambda row: mp.log(row["sw"] - row["sl"]),
        "score_ratio": lambda row: mp.log(row["sw"] / row["sl"]),
    }
    return [softplus(-(beta * gap(row) - alpha * offsets[offset](row))) for row in rows]


def dpop(rows, fixed, beta, lambda_):
    return [softplus(-beta * (gap(row) - lambda_ * max(mpf(0), -log_ratios(row)[0]))) for row in rows]


def minor_dpo(rows, fixed, beta):
    return [softplus(-beta * (chosen - max(mpf(0), rejected))) for chosen, rejected in map(log_ratios, rows)]


def fdpo(rows, fixed, beta, divergence, alpha=None):
    alpha = mpf("0.5") if alpha is None else alpha
    derivatives = {
        "reverse_kl": lambda u: mp.log(u) + 1,
        "forward_kl": lambda u: -1 / u,
        "jensen_shannon": lambda u: mp.log(2 * u / (1 + u)),
        "alpha": lambda u: (1 - u**-alpha) / alpha,
    }
    derivative = derivatives[divergence]
    return [
        softplus(-beta * (derivative(mp.exp(chosen)) - derivative(mp.exp(rejected))))
        for chosen, rejected in map(log_ratios, rows)
    ]


def chipo(rows, fixed, beta, r_max):
    bound = inf if r_max is None else 2 * r_max

    def margin(chosen, rejected):
        return beta * (mp.exp(chosen) + chosen) - beta * (mp.exp(rejected) + rejected)

    return [softplus(-max(-bound, min(bound, margin(*log_ratios(row))))) for row in rows]


def sigmoid_norm(rows, fixed, beta):
    return [
        softplus(-beta * (chosen / row["nw"] - rejected / row["nl"]))
        for row, (chosen, rejected) in zip(rows, map(log_ratios, rows), strict=True)
    ]


VALUES = {
    "cdpo": cdpo,
    "robust": robust,
    "rso_hinge": rso_hinge,
    "exo_pair": exo_pair,
    "discopop": discopop,
    "r_dpo": r_dpo,
    "odpo": odpo,
    "dpop": dpop,
    "minor_dpo": minor_dpo,
    "fdpo": fdpo,
    "chipo": chipo,
    "sigmoid_norm": sigmoid_norm,
}

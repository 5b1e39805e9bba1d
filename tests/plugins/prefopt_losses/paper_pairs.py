"""Losses on pairs that have a loss of their own for each side, an NLL, or no reference: once more, from the papers.

Nothing here is shared with the losses under test: no tensors, no log-space rearrangements, 60 digits instead. Each
function takes the rows of a batch as dicts of plain numbers and returns one value per row; none of these losses looks
at other rows or detaches anything, so `fixed` is never read.
"""

from mpmath import mp, mpf

mp.dps = 60


def sigmoid(x):
    return 1 / (1 + mp.exp(-x)) if x >= 0 else mp.exp(x) / (1 + mp.exp(x))


def minus_log_sigmoid(x):
    # e^-1e6 is below any number met here, and mpmath takes long to say how far below.
    return max(-x, mpf(0)) + (mp.log1p(mp.exp(-abs(x))) if abs(x) < 1e6 else mpf(0))


def sigmoid_difference(x, y):
    """sigmoid(x) - sigmoid(y) as a product, where 60 digits would not tell two numbers near 1 apart."""
    return mp.sinh((x - y) / 2) / (2 * mp.cosh(x / 2) * mp.cosh(y / 2))


def ratios(row):
    return row["pc"] - row["rc"], row["pr"] - row["rr"]


def means(row):
    return row["pc"] / row["nw"], row["pr"] / row["nl"]


def negative_log_likelihood(row, nll):
    return -row["pc"] / row["nw"] if nll == "sequence" else -row["pc"]


def row_by_row(value):
    """A formula for one row as a function of all of them."""
    return lambda rows, fixed, **hyper: [value(row, **hyper) for row in rows]


def nca_pair(row, beta):
    chosen, rejected = (beta * ratio for ratio in ratios(row))
    return minus_log_sigmoid(chosen) + (minus_log_sigmoid(-chosen) + minus_log_sigmoid(-rejected)) / 2


def sppo_hard(row, beta, p_chosen, p_rejected, scale):
    eta, half = 1 / beta, mpf(1) / 2
    chosen, rejected = ratios(row)
    return scale * ((chosen - eta * (p_chosen - half)) ** 2 + (rejected - eta * (p_rejected - half)) ** 2)


def apo_zero(row, beta, offset):
    chosen, rejected = (beta * ratio for ratio in ratios(row))
    return sigmoid(-chosen) + sigmoid(rejected) if offset == 1 else sigmoid_difference(rejected, chosen)


def apo_down(row, beta, offset):
    chosen, rejected = (beta * ratio for ratio in ratios(row))
    margin = chosen - rejected
    return sigmoid(chosen) + sigmoid(-margin) if offset == 1 else sigmoid_difference(chosen, margin)


def cal_dpo(row, beta, calibration_weight):
    chosen, rejected = ratios(row)
    target = 1 / (2 * beta)
    squares = (chosen - target) ** 2 + (rejected + target) ** 2
    return minus_log_sigmoid(chosen - rejected) + calibration_weight * squares


def rpo(row, beta, alpha, nll):
    chosen, rejected = ratios(row)
    return minus_log_sigmoid(beta * (chosen - rejected)) + alpha * negative_log_likelihood(row, nll)


def unlikelihood_seq(row, alpha, nll):
    return negative_log_likelihood(row, nll) + alpha * row["pr"]


def slic(row, delta, lambda_, nll):
    return max(mpf(0), delta - row["pc"] + row["pr"]) + lambda_ * negative_log_likelihood(row, nll)


def alphapo(row, alpha, beta, gamma):
    chosen, rejected = (beta * (mean if alpha == 0 else (1 - mp.exp(mean) ** -alpha) / alpha) for mean in means(row))
    return minus_log_sigmoid(chosen - rejected - gamma)


def cpo(row, beta, lambda_, nll):
    return minus_log_sigmoid(beta * (row["pc"] - row["pr"])) + lambda_ * negative_log_likelihood(row, nll)


def cpo_simpo(row, beta, gamma, lambda_, nll):
    chosen, rejected = means(row)
    return minus_log_sigmoid(beta * (chosen - rejected) - gamma) + lambda_ * negative_log_likelihood(row, nll)


def simper(row):
    chosen, rejected = means(row)
    return -mp.exp(chosen) + mp.exp(rejected)


VALUES = {
    value.__name__: row_by_row(value)
    for value in (
        nca_pair,
        sppo_hard,
        apo_zero,
        apo_down,
        cal_dpo,
        rpo,
        unlikelihood_seq,
        slic,
        alphapo,
        cpo,
        cpo_simpo,
        simper,
    )
}

"""Rankings, coupled losses and losses with state, once more: straight from the papers, in 60 digits.

Nothing here is shared with the losses under test: loops over rows, sums over permutation prefixes, exact merging of
quantiles. Each function takes the rows as dicts of plain numbers and `fixed`, the same rows as constants: what a loss
takes for a constant is computed from those, so that a derivative by an entry of `rows` is the gradient the loss means.
States are the initial ones. Every function returns one value per row.
"""

from mpmath import mp, mpf

mp.dps = 60


def softplus(x):
    return max(x, mpf(0)) + mp.log1p(mp.exp(-abs(x)))


def sigmoid(x):
    return mp.exp(-softplus(-x))


def mean(rows, values):
    return sum(row["w"] * value for row, value in zip(rows, values, strict=True)) / sum(row["w"] for row in rows)


def deviation(rows, values):
    """Sample standard deviation, a row of weight w counting as w rows."""
    values = [value - values[0] for value in values]  # exactly 0 where all are equal, whatever the weights
    centre, freedom = mean(rows, values), sum(row["w"] for row in rows) - 1
    squares = sum(row["w"] * (value - centre) ** 2 for row, value in zip(rows, values, strict=True))
    return mp.sqrt(squares / freedom) if freedom > 0 else mpf(0)


def chosen(row):
    return row["pc"] - row["rc"]


def rejected(row):
    return row["pr"] - row["rr"]


def gap(row):
    return chosen(row) - rejected(row)


# Rankings ------------------------------------------------------------------------------------------------------------


def slots(row):
    """The completions that are there."""
    return [slot for slot, length in enumerate(row["n"]) if length]


def rewards(row, beta):
    return {slot: beta * (row["p"][slot] - row["r"][slot]) for slot in slots(row)}


def minus_log_softmax(value, others):
    """-log of e^value / (e^value + sum of e^others), of which 60 digits are right however small it is."""
    return mp.log1p(sum((mp.exp(other - value) for other in others), mpf(0)))


def targets(row, alpha):
    total = sum(mp.exp(row["score"][slot] / alpha) for slot in slots(row))
    return {slot: mp.exp(row["score"][slot] / alpha) / total for slot in slots(row)}


def pl_dpo(rows, fixed, beta):
    """The ranking is drawn without replacement: the best of all, then the best of the rest."""
    losses = []
    for row in rows:
        reward, loss = rewards(row, beta), mpf(0)
        rest = sorted(reward, key=lambda slot: row["score"][slot], reverse=True)
        while rest:
            loss += minus_log_softmax(reward[rest[0]], [reward[slot] for slot in rest[1:]])
            rest = rest[1:]
        losses.append(loss)
    return losses


def infonca_list(rows, fixed, beta, alpha):
    losses = []
    for row in rows:
        reward, target = rewards(row, beta), targets(row, alpha)
        others = {slot: [reward[other] for other in reward if other != slot] for slot in reward}
        losses.append(sum(target[slot] * minus_log_softmax(reward[slot], others[slot]) for slot in reward))
    return losses


def nca_list(rows, fixed, beta, alpha):
    losses = []
    for row in rows:
        reward, target = rewards(row, beta), targets(row, alpha)
        losses.append(
            sum(target[slot] * softplus(-reward[slot]) + softplus(reward[slot]) / len(reward) for slot in reward)
        )
    return losses


def rrhf(rows, fixed, rank_weight, length_penalty, nll):
    losses = []
    for row in rows:
        score, p = row["score"], {slot: row["p"][slot] / row["n"][slot] ** length_penalty for slot in slots(row)}
        rank = sum(max(mpf(0), p[i] - p[j]) for i in p for j in p if score[i] < score[j])
        best = max(p, key=lambda slot: score[slot])
        likelihood = row["p"][best] / row["n"][best] if nll == "sequence" else row["p"][best]
        losses.append(rank_weight * rank - likelihood)
    return losses


# A shift or a mean over the batch ------------------------------------------------------------------------------------


def bco_pair(rows, fixed, beta):
    shift = mean(fixed, [beta * (chosen(row) + rejected(row)) / 2 for row in fixed])
    return [softplus(-(beta * chosen(row) - shift)) + softplus(beta * rejected(row) - shift) for row in rows]


def bco(rows, fixed, beta, shift):
    def expected(some):
        return mean(some, [beta * (row["p"] - row["r"]) for row in some])

    classes = [[row for row in fixed if row["desirable"] == label] for label in (True, False)]
    means = [expected(some) for some in classes if some]
    middle = sum(means) / len(means) if shift == "midpoint" else expected(fixed)
    margins = [beta * (row["p"] - row["r"]) - middle for row in rows]
    return [
        softplus(-margin) if row["desirable"] else row["uw"] * softplus(margin)
        for row, margin in zip(rows, margins, strict=True)
    ]


def kto_pair(rows, fixed, beta, detach_kl):
    source = fixed if detach_kl else rows
    chosen_kl = max(mpf(0), mean(source, [chosen(row) for row in source]))
    rejected_kl = max(mpf(0), mean(source, [rejected(row) for row in source]))
    return [
        sigmoid(-beta * (chosen(row) - rejected_kl)) + sigmoid(-beta * (chosen_kl - rejected(row)))  # 1 - s(x) = s(-x)
        for row in rows
    ]


# Optimal transport ---------------------------------------------------------------------------------------------------


def transport(first, second, weights):
    """(row of `first`, row of `second`, mass): both queues are served in ascending order until they are empty."""
    queues = [
        [[row, weights[row]] for row in sorted(range(len(values)), key=values.__getitem__)]
        for values in (first, second)
    ]
    pieces = []
    while queues[0] and queues[1]:
        (i, left), (j, right) = queues[0][0], queues[1][0]
        mass = min(left, right)
        pieces.append((i, j, mass))
        for queue in queues:
            queue[0][1] -= mass
            if queue[0][1] == 0:
                queue.pop(0)
    return pieces


def smoothed(margin, label_smoothing):
    return (1 - label_smoothing) * softplus(-margin) + label_smoothing * softplus(margin)


def transported(rows, pieces, first, second, beta, label_smoothing):
    losses = [mpf(0)] * len(rows)
    for i, j, mass in pieces:
        losses[i] += mass / rows[i]["w"] * smoothed(beta * (first[i] - second[j]), label_smoothing)
    return losses


def aot_paired(rows, fixed, beta, label_smoothing):
    def policy(row):
        return row["pc"] - row["pr"]

    reference = [row["rc"] - row["rr"] for row in fixed]
    pieces = transport([policy(row) for row in fixed], reference, [row["w"] for row in fixed])
    return transported(rows, pieces, [policy(row) for row in rows], reference, beta, label_smoothing)


def aot_unpaired(rows, fixed, beta, label_smoothing):
    pieces = transport([*map(chosen, fixed)], [*map(rejected, fixed)], [row["w"] for row in fixed])
    return transported(rows, pieces, [*map(chosen, rows)], [*map(rejected, rows)], beta, label_smoothing)


# Moving averages -----------------------------------------------------------------------------------------------------


def first_averages(fixed, gaps, momentum):
    """The moving averages of mean and standard deviation after the first batch; before it they are 0."""
    return (1 - momentum) * mean(fixed, gaps), (1 - momentum) * deviation(fixed, gaps)


def beta_dpo(rows, fixed, beta, alpha, keep, momentum):
    gaps = [*map(gap, fixed)]
    centre, spread = first_averages(fixed, gaps, momentum)
    # An exponential time of rate weight for each pair: the order in which they are drawn without replacement.
    rates = [mp.exp(-(((g - centre) / spread) ** 2) / 2) if spread else mpf(1) for g in gaps]
    draws = [row["draws"][0][0] for row in fixed]
    times = [-mp.log(draw) / rate if draw else mp.inf for draw, rate in zip(draws, rates, strict=True)]
    total = sum(row["w"] for row in fixed)
    room = max(mpf(1), total - mp.ceil((1 - keep) * total - mpf("1e-9")))
    kept = [mpf(0)] * len(fixed)
    for row in sorted(range(len(fixed)), key=times.__getitem__):
        kept[row] = min(mpf(1), room / fixed[row]["w"])
        room -= kept[row] * fixed[row]["w"]
    mass = [part * row["w"] for part, row in zip(kept, fixed, strict=True)]
    average = sum(m * g for m, g in zip(mass, gaps, strict=True)) / sum(mass)
    dynamic = max(mpf("0.001"), beta * (1 + alpha * (average - centre)))
    return [part * softplus(-dynamic * gap(row)) for part, row in zip(kept, rows, strict=True)]


def alpha_dpo(rows, fixed, beta, gamma, alpha, momentum):
    gaps = [chosen(row) / row["nw"] - rejected(row) / row["nl"] for row in fixed]
    centre, spread = first_averages(fixed, gaps, momentum)
    scores = [(g - centre) / spread if spread else mpf(0) for g in gaps]
    return [
        softplus(-beta * ((row["pc"] / row["nw"] - row["pr"] / row["nl"]) - (gamma + alpha * z)))
        for row, z in zip(rows, scores, strict=True)
    ]


VALUES = {
    "pl_dpo": pl_dpo,
    "infonca_list": infonca_list,
    "nca_list": nca_list,
    "rrhf": rrhf,
    "bco_pair": bco_pair,
    "bco": bco,
    "kto_pair": kto_pair,
    "aot_paired": aot_paired,
    "aot_unpaired": aot_unpaired,
    "beta_dpo": beta_dpo,
    "alpha_dpo": alpha_dpo,
}

"""The losses that read single tokens once more, in arbitrary precision and straight from the papers.

Nothing here is shared with the losses under test. Each function takes rows as dicts of plain numbers, the same rows
again as constants (`fixed`), and the hyper-parameters; it returns one value per row. Keys: pc, pr, rc, rr are summed
log-probs of policy and reference; tw, tl and rtw, rtl those of single tokens; kw, kl the KL(reference || policy) of
each position; qw, ql its log of the sum of p^2; `draws[0]` and `draws[1]` one number for each chosen, rejected token.
"""

from mpmath import inf, mp, mpf

mp.dps = 60


def softplus(x):
    return max(x, mpf(0)) + mp.log1p(mp.exp(-abs(x)))


def gap(row):
    return (row["pc"] - row["rc"]) - (row["pr"] - row["rr"])


def wpo(rows, fixed, beta, clamp):
    def weight(logps, log_sums):
        """The geometric mean over tokens of p / sum of p^2."""
        return mp.fprod(mp.exp(t) / mp.exp(q) for t, q in zip(logps, log_sums, strict=True)) ** (mpf(1) / len(logps))

    values = []
    for row, now in zip(rows, fixed, strict=True):
        product = weight(now["tw"], now["qw"]) * weight(now["tl"], now["ql"])
        values.append((min(product, mpf(1)) if clamp else product) * softplus(-beta * gap(row)))
    return values


def ld_dpo(rows, fixed, beta, alpha, scale_reference):
    def reward(policy, reference, shared):
        head = sum(policy[:shared]) - sum(reference[:shared])
        tail = alpha * sum(policy[shared:]) - (alpha if scale_reference else 1) * sum(reference[shared:])
        return beta * (head + tail)

    values = []
    for row in rows:
        shared = min(len(row["tw"]), len(row["tl"]))
        margin = reward(row["tw"], row["rtw"], shared) - reward(row["tl"], row["rtl"], shared)
        values.append(softplus(-margin))
    return values


def sampo(rows, fixed, beta):
    def reward(policy, reference, numbers, count):
        kept = sorted(range(len(policy)), key=lambda place: numbers[place])[:count]
        return beta * sum(policy[place] - reference[place] for place in kept)

    values = []
    for row, now in zip(rows, fixed, strict=True):
        count = min(len(row["tw"]), len(row["tl"]))
        chosen = reward(row["tw"], row["rtw"], now["draws"][0], count)
        values.append(softplus(-(chosen - reward(row["tl"], row["rtl"], now["draws"][1], count))))
    return values


def tdpo1(rows, fixed, beta):
    return [softplus(-(beta * gap(row) - beta * (sum(row["kl"]) - sum(row["kw"])))) for row in rows]


def tdpo2(rows, fixed, beta, alpha):
    """The chosen side's KL is stop-gradient: it comes from the constants."""
    return [
        softplus(-(beta * gap(row) - alpha * beta * (sum(row["kl"]) - sum(now["kw"]))))
        for row, now in zip(rows, fixed, strict=True)
    ]


def unlikelihood_token(rows, fixed, alpha, nll):
    values = []
    for row in rows:
        likelihood = -row["pc"] / len(row["tw"]) if nll == "sequence" else -row["pc"]
        avoided = -sum(-inf if t == 0 else mp.log(1 - mp.exp(t)) for t in row["tl"])
        values.append(likelihood + alpha * avoided)
    return values


VALUES = {
    "wpo": wpo,
    "ld_dpo": ld_dpo,
    "sampo": sampo,
    "tdpo1": tdpo1,
    "tdpo2": tdpo2,
    "unlikelihood_token": unlikelihood_token,
}

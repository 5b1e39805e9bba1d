"""Peak memory of one DPO step on a model with a large vocabulary: prefopt against dense logits.

    python benchmarks/performance/large_vocabulary.py

Random weights, hidden 256, 4 layers, vocabulary 150,000; 4 pairs of a 256-token prompt and 128-token completions. The
dense way is the one that papers print: both completions in full, log-softmax over (batch, length, vocabulary), gather.
Each way is a process of its own; what is compared is the most memory the process ever held, all of Python included.
"""

import argparse
import copy
import json
import random
import subprocess
import sys

import torch
from measures import peak_bytes
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM

import prefopt
from prefopt.data.row import Completion, Row
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer

VOCABULARY, PROMPT, COMPLETION, PAIRS = 150_000, 256, 128, 4


def build():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            tie_word_embeddings=True,
        )
    )


def rows():
    draw = random.Random(0)

    def ids(length):
        return tuple(draw.randrange(VOCABULARY) for _ in range(length))

    def completion():
        return Completion(ids(COMPLETION), (True,) * COMPLETION)

    return [Row("pairs", "random", number, ids(PROMPT), (completion(), completion())) for number in range(1, PAIRS + 1)]


def dense(policy, reference):
    pairs = rows()
    ids = torch.tensor([row.prompt + row.completions[side].ids for side in (0, 1) for row in pairs])

    def logps(model):
        logits = model(ids, use_cache=False).logits[:, :-1].log_softmax(-1)
        return logits.gather(2, ids[:, 1:, None])[:, PROMPT - 1 :, 0].sum(1)

    with torch.no_grad():
        held = logps(reference)
    ratios = logps(policy) - held
    loss = -logsigmoid(0.1 * (ratios[:PAIRS] - ratios[PAIRS:])).mean()
    loss.backward()
    return float(loss.detach())


def ours(policy, reference):
    loss = prefopt.get_loss("dpo", beta=0.1)
    return accumulate(Scorer(policy), Scorer(reference), loss, rows(), tokens_per_microbatch=1024).loss


def one(way):
    torch.set_num_threads(2)
    policy = build()
    reference = copy.deepcopy(policy).requires_grad_(False)
    before = peak_bytes()
    loss = {"dense": dense, "prefopt": ours}[way](policy, reference)
    norm = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters()])
    print(json.dumps({"loss": loss, "grad_norm": float(norm), "before": before, "peak": peak_bytes()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=["dense", "prefopt"], help=argparse.SUPPRESS)
    way = parser.parse_args().way
    if way:
        return one(way)
    found = {}
    for way in ("dense", "prefopt"):
        command = [sys.executable, "-W", "ignore", __file__, "--way", way]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        shown = found[way]
        print(
            f"{way:8} peak {shown['peak'] / 1e9:.2f} GB (two models loaded: {shown['before'] / 1e9:.2f} GB), "
            f"loss {shown['loss']:.6f}, gradient norm {shown['grad_norm']:.6f}"
        )
    print(f"prefopt / dense: {found['prefopt']['peak'] / found['dense']['peak']:.3f}")


main()

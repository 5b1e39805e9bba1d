"""The gradient that reaches the parameters of a transformer is the one the papers write down.

Each paper states the gradient of its objective as a sum over completions of a coefficient times the score,
grad log pi(y | x). The scores are taken one by one, the coefficients are worked out below in plain Python, and the sum
must equal back-propagation through the loss and the model at once.
"""

import math

import pytest
import torch
from torch.nn.functional import log_softmax
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from truth import REGISTRY

from prefopt import PreferenceBatch

VOCABULARY = 64
CHOSEN_LENGTHS, REJECTED_LENGTHS, PROMPT_LENGTHS = [3, 7, 5], [6, 2, 5], [4, 2, 3]
NUM_PAIRS = len(PROMPT_LENGTHS)


def tiny_llama(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,  # far from uniform, so that the log-ratios differ
        attention_dropout=0.0,
    )
    model = LlamaForCausalLM(config).double().eval()
    in_double_precision(model)
    return model


def in_double_precision(model):
    """Llama's own norm computes in float32 whatever the dtype, which alone puts 1e-7 between two backward passes."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=torch.float64)
                setattr(parent, name, norm)


def completion_logp(model, prompt, completion):
    logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
    return log_softmax(logits, -1).gather(1, completion[:, None]).sum()


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients])


class Scored:
    """Completions with their log-probs (still attached to the graph), reference log-probs and scores."""

    def __init__(self, policy, reference, prompts, completions):
        parameters = list(policy.parameters())
        rows = list(zip(prompts, completions, strict=True))
        self.policy = torch.stack([completion_logp(policy, *row) for row in rows])
        with torch.no_grad():
            self.reference = torch.stack([completion_logp(reference, *row) for row in rows])
        self.lengths = torch.tensor([len(completion) for completion in completions])
        self.scores = [flat(torch.autograd.grad(logp, parameters, retain_graph=True)) for logp in self.policy]
        self.logps = self.policy.tolist()
        self.log_ratios = (self.policy - self.reference).tolist()


@pytest.fixture(scope="module")
def world():
    policy, reference = tiny_llama(0), tiny_llama(1)
    torch.manual_seed(2)

    def draw(lengths):
        return [torch.randint(VOCABULARY, (length,)) for length in lengths]

    prompts, chosen, rejected = draw(PROMPT_LENGTHS), draw(CHOSEN_LENGTHS), draw(REJECTED_LENGTHS)
    mismatched = [*chosen[1:], chosen[0]]
    return {
        "parameters": list(policy.parameters()),
        "chosen": Scored(policy, reference, prompts, chosen),
        "rejected": Scored(policy, reference, prompts, rejected),
        "mismatched": Scored(policy, reference, prompts, mismatched),
    }


def pair_batch(world):
    chosen, rejected = world["chosen"], world["rejected"]
    return PreferenceBatch.from_pairs(
        policy_chosen=chosen.policy,
        policy_rejected=rejected.policy,
        reference_chosen=chosen.reference,
        reference_rejected=rejected.reference,
        chosen_lengths=chosen.lengths,
        rejected_lengths=rejected.lengths,
    )


def assert_same_direction_and_size(world, output, coefficients):
    """`coefficients` maps chosen / rejected to one number per completion, for the loss as the engine reduces it."""
    terms = output.terms or {"loss": (output.losses, torch.ones_like(output.losses))}
    objective = sum(values.sum() / normaliser.sum() for values, normaliser in terms.values())
    actual = flat(torch.autograd.grad(objective, world["parameters"], retain_graph=True))
    expected = sum(
        coefficient * score
        for side, of_side in coefficients.items()
        for coefficient, score in zip(of_side, world[side].scores, strict=True)
    )
    assert expected.norm() > 1e-3
    assert (actual - expected).norm() <= 1e-10 * expected.norm()


def s(x):
    return 1 / (1 + math.exp(-x))


def test_dpo_gradient_on_a_model(world):
    """-beta E[ s(reward_l - reward_w) (grad log pi(y_w) - grad log pi(y_l)) ], section 4 of the paper."""
    beta = 0.3
    wrong = [
        s(beta * rejected - beta * chosen)
        for chosen, rejected in zip(world["chosen"].log_ratios, world["rejected"].log_ratios, strict=True)
    ]
    coefficients = {
        "chosen": [-beta * w / NUM_PAIRS for w in wrong],
        "rejected": [beta * w / NUM_PAIRS for w in wrong],
    }
    assert_same_direction_and_size(world, REGISTRY.loss("dpo", beta=beta)(pair_batch(world)), coefficients)


@pytest.mark.parametrize("length_normalized", [False, True])
def test_ipo_gradient_on_a_model(world, length_normalized):
    """d (h - c)^2 = 2 (h - c) dh, and dh is the difference of (averaged) scores."""
    tau = 0.2
    coefficients = {"chosen": [], "rejected": []}
    for i in range(NUM_PAIRS):
        n_w, n_l = (CHOSEN_LENGTHS[i], REJECTED_LENGTHS[i]) if length_normalized else (1, 1)
        h = world["chosen"].log_ratios[i] / n_w - world["rejected"].log_ratios[i] / n_l
        coefficients["chosen"].append(2 * (h - 0.5 / tau) / n_w / NUM_PAIRS)
        coefficients["rejected"].append(-2 * (h - 0.5 / tau) / n_l / NUM_PAIRS)
    loss = REGISTRY.loss("ipo", tau=tau, length_normalized=length_normalized)
    assert_same_direction_and_size(world, loss(pair_batch(world)), coefficients)


def test_kto_gradient_on_a_model(world):
    """With v = s(+-beta (r - z0)) the loss is weight x (1 - v), so each row pulls by weight x beta x v (1 - v)."""
    beta, desirable_weight, undesirable_weight = 0.3, 1.2, 0.7
    chosen, rejected, mismatched = world["chosen"], world["rejected"], world["mismatched"]
    # Both completions of a prompt are rows; the mismatched one stands beside each.
    z0 = max(0.0, sum(mismatched.log_ratios * 2) / (2 * NUM_PAIRS))
    coefficients = {"chosen": [], "rejected": []}
    for log_ratio in chosen.log_ratios:
        v = s(beta * (log_ratio - z0))
        coefficients["chosen"].append(-desirable_weight * beta * v * (1 - v) / (2 * NUM_PAIRS))
    for log_ratio in rejected.log_ratios:
        v = s(beta * (z0 - log_ratio))
        coefficients["rejected"].append(undesirable_weight * beta * v * (1 - v) / (2 * NUM_PAIRS))
    batch = PreferenceBatch.from_labels(
        policy=torch.cat([chosen.policy, rejected.policy]),
        reference=torch.cat([chosen.reference, rejected.reference]),
        lengths=torch.cat([chosen.lengths, rejected.lengths]),
        desirable=torch.arange(2 * NUM_PAIRS) < NUM_PAIRS,
        mismatched_policy=mismatched.policy.repeat(2),
        mismatched_reference=mismatched.reference.repeat(2),
    )
    loss = REGISTRY.loss("kto", beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    assert_same_direction_and_size(world, loss(batch), coefficients)


def test_simpo_gradient_on_a_model(world):
    """-beta E[ s(reward_l - reward_w + gamma) (grad log pi(y_w) / |y_w| - grad log pi(y_l) / |y_l|) ]."""
    beta, gamma = 2.0, 0.5
    coefficients = {"chosen": [], "rejected": []}
    for i, (n_w, n_l) in enumerate(zip(CHOSEN_LENGTHS, REJECTED_LENGTHS, strict=True)):
        wrong = s(beta * world["rejected"].logps[i] / n_l - beta * world["chosen"].logps[i] / n_w + gamma)
        coefficients["chosen"].append(-beta * wrong / n_w / NUM_PAIRS)
        coefficients["rejected"].append(beta * wrong / n_l / NUM_PAIRS)
    loss = REGISTRY.loss("simpo", beta=beta, gamma=gamma)
    assert_same_direction_and_size(world, loss(pair_batch(world)), coefficients)


@pytest.mark.parametrize("nll", ["sequence", "token", "sum"])
def test_orpo_gradient_on_a_model(world, nll):
    """The paper's delta(d) h(d): delta = 1 / (1 + odds_w / odds_l), h = averaged scores over 1 - p."""
    lambda_ = 0.4
    coefficients = {"chosen": [], "rejected": []}
    for i, (n_w, n_l) in enumerate(zip(CHOSEN_LENGTHS, REJECTED_LENGTHS, strict=True)):
        p_w, p_l = math.exp(world["chosen"].logps[i] / n_w), math.exp(world["rejected"].logps[i] / n_l)
        delta = 1 / (1 + (p_w / (1 - p_w)) / (p_l / (1 - p_l)))
        share = {"sequence": 1 / n_w / NUM_PAIRS, "token": 1 / sum(CHOSEN_LENGTHS), "sum": 1 / NUM_PAIRS}[nll]
        coefficients["chosen"].append(-share - lambda_ * delta / (1 - p_w) / n_w / NUM_PAIRS)
        coefficients["rejected"].append(lambda_ * delta / (1 - p_l) / n_l / NUM_PAIRS)
    loss = REGISTRY.loss("orpo", lambda_=lambda_, nll=nll)
    assert_same_direction_and_size(world, loss(pair_batch(world)), coefficients)


@pytest.mark.parametrize("nll", ["sequence", "token", "sum"])
def test_sft_gradient_on_a_model(world, nll):
    """Minus the scores: of each sequence's mean, of all tokens alike, or of each sequence's sum."""
    chosen = world["chosen"]
    shares = {
        "sequence": [-1 / n / NUM_PAIRS for n in CHOSEN_LENGTHS],
        "token": [-1 / sum(CHOSEN_LENGTHS)] * NUM_PAIRS,
        "sum": [-1 / NUM_PAIRS] * NUM_PAIRS,
    }
    batch = PreferenceBatch.from_demonstrations(policy=chosen.policy, lengths=chosen.lengths)
    assert_same_direction_and_size(world, REGISTRY.loss("sft", nll=nll)(batch), {"chosen": shares[nll]})

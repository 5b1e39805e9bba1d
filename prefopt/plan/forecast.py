"""From a config to what its run will take, with nothing loaded but configs, tokenizer and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from prefopt.config import ModelConfig, RunConfig
from prefopt.data.sources import Source
from prefopt.data.trees import Tree
from prefopt.engine.head import Wanted
from prefopt.engine.loading import load_tokenizer
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import Ranks
from prefopt.errors import ConfigError, ModelError, PrefoptError
from prefopt.plan.heap import Heap
from prefopt.plan.sharding import Sharding, bytes_of, gathered_bytes
from prefopt.plan.skeleton import Outline, skeleton
from prefopt.plan.state import state_sizes, step_bytes
from prefopt.plan.trace import Trace, trace
from prefopt.plan.workload import Workload, seen_pairs, workload
from prefopt.preparation import check_needs, prepare
from prefopt.reference.live import Kind, kind_of
from prefopt.training.memory import peak_process_bytes
from prefopt.weighted import Objective

Device = Literal["cpu", "cuda"]
# Pages of torch's CPU kernels and of its threads that a first step touches: what a run of a model of 260,000 parameters
# held (0.60 GB) above what it held after its imports (0.44 GB), measured once; benchmarks/performance/plan.py shows how
# well it serves others.
_KERNEL_BYTES = 155_000_000
_QUANTIZED = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}  # bytes a weight; a scale for every 64 weights


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Attributes:
        parameters, trainable: counts.
        memory: way ("live", "stored") -> part -> bytes of one process at the fullest moment; `peak` is their sum.
        checkpointed: the same sum with gradient checkpointing switched the other way.
        flops: `forward`, `backward` and `reference`, of one epoch, all processes together.
        scored_once: arithmetic of scoring every completion of the epoch into the store.
        work: the tokens.
        device: where the run computes.
    """

    parameters: int
    trainable: int
    memory: Mapping[str, Mapping[str, int]]
    checkpointed: Mapping[str, int]
    flops: Mapping[str, int]
    work: Workload
    device: Device


def forecast(
    config: RunConfig,
    loss: Objective,
    *,
    train: Source | None = None,
    processes: int = 1,
    sharding: Sharding = "ddp",
    device: Device | None = None,
) -> Forecast:
    """Go through a run on the meta device.

    Args:
        config: the run.
        loss: the loss it names.
        train: rows in memory, in place of the config's `data.train`.
        processes: that share every batch.
        sharding: how several of them hold the model.
        device: where the run will compute; absent: where it would here.

    Raises:
        PrefoptError: what would stop the run before its model is loaded, or the model cannot be gone through.
    """
    if processes < 1:
        raise ConfigError(f"processes = {processes}; a run takes at least 1")
    if config.data.streaming:
        raise ConfigError(
            "data.streaming: a plan reads every row, and a stream tells neither how many it has nor how long they are; "
            "plan with a sample of it, as in data.streaming=false data.train=SAMPLE.jsonl"
        )
    place: Device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source = config.data.train if train is None else train
    check_needs(config, loss, source)
    data = prepare(config, loss, load_tokenizer(config.model), source)
    held = peak_process_bytes() + _KERNEL_BYTES if place == "cpu" else 0
    policy = _outline(config.model, checkpointing=config.training.gradient_checkpointing)
    ranks = Ranks(0, processes)
    work = workload(data.train, loss, config.training, policy, ranks)
    kind = kind_of(config) if loss.needs.reference else None
    other = _second_model(config, kind)
    runs = {
        switched: _Run(config, loss, policy_of, kind, other, work, place, held, processes, sharding)
        for switched, policy_of in (
            (False, policy),
            (True, _outline(config.model, checkpointing=not config.training.gradient_checkpointing)),
        )
    }
    ways = ["live"] if loss.needs.reference else []
    if loss.needs.distribution != "both":  # no store holds whole distributions
        ways.append("stored")
    memory = {way if loss.needs.reference else "none": runs[False].memory(way) for way in ways}
    return Forecast(
        parameters=sum(each.numel() for each in policy.parameters()),
        trainable=sum(each.numel() for each in policy.parameters() if each.requires_grad),
        memory=memory,
        checkpointed={way if loss.needs.reference else "none": sum(runs[True].memory(way).values()) for way in ways},
        flops=runs[False].flops(),
        work=work,
        device=place,
    )


def _outline(model: ModelConfig, *, checkpointing: bool = False) -> Outline:
    made = skeleton(model)
    if checkpointing:
        made.train()  # as the trainer does: layers check the mode; every dropout is zero
        enable: Any = getattr(made, "activation_checkpointing_enable", None) or made.gradient_checkpointing_enable
        enable(None)
    return Outline(made)


def _second_model(config: RunConfig, kind: Kind | None) -> Outline | None:
    """The model of a live reference, where it is not in the policy's own weights."""
    if kind is Kind.MODEL:
        assert config.reference.model is not None
        return _outline(config.reference.model).requires_grad_(False)
    return _outline(config.model).requires_grad_(False) if kind is Kind.INITIAL_POLICY else None


class _Run:
    """One way to hold the policy."""

    def __init__(
        self,
        config: RunConfig,
        loss: Objective,
        policy: Outline,
        kind: Kind | None,
        reference: Outline | None,
        work: Workload,
        device: Device,
        held: int,
        processes: int,
        sharding: Sharding,
    ) -> None:
        self._config = config
        self._loss = loss
        self._policy = policy
        self._kind = kind
        self._reference = reference
        self._work = work
        self._device: Device = device
        self._held = held
        self._processes = processes
        self._shards = processes if sharding == "fsdp" else 1
        self._sharding = sharding
        self._autocast = None if config.model.autocast is None else getattr(torch, config.model.autocast)
        self._trainable = [each for each in policy.parameters() if each.requires_grad]
        self._traces: dict[tuple[int, bool, bool, bool], Trace] = {}

    def _trace(
        self, part: Sequence[Tree], *, backward: bool, accumulates: bool = False, of_reference: bool = False
    ) -> Trace:
        key = (id(part), backward, accumulates, of_reference)
        if key not in self._traces:
            scorer: Scorer = self._policy
            if of_reference and self._reference is not None:
                scorer = self._reference
            wanted = None
            if not of_reference and self._loss.needs.distribution is not None:
                wanted = partial(self._wanted, part)
            try:
                self._traces[key] = trace(
                    scorer,
                    scorer.lay_out(part),
                    device=self._device,
                    autocast=self._autocast,
                    wanted=wanted,
                    backward=backward,
                    accumulates=accumulates,
                )
            except PrefoptError:
                raise
            except Exception as error:  # whatever a model does that needs numbers
                reason = " ".join(str(error).split())[:200]
                raise ModelError(
                    f"{type(self._policy.model).__name__} cannot be gone through without its weights "
                    f"({type(error).__name__}: {reason}); train it for a step to see what it takes"
                ) from error
        return self._traces[key]

    def _wanted(self, part: Sequence[Tree]) -> Wanted:
        if self._loss.needs.distribution == "policy":
            return Wanted()
        # The policy with its adapter off has a scratch of its own, as a copy would have.
        return Wanted((self._reference or Outline(self._policy.model)).logits(part))

    def flops(self) -> dict[str, int]:
        """Of one epoch: linear layers go with tokens, attention with pairs of positions, the head with log-probs."""
        largest, work = self._work.largest, self._work
        whole = Workload(1, tokens=sum(tree.num_tokens for tree in largest))
        whole.pairs = sum(map(seen_pairs, largest))
        whole.scored = sum(own.num_scored for tree in largest for _, own in tree.branches)
        shares = {
            "layers": work.tokens / whole.tokens,
            "attention": work.pairs / whole.pairs,
            "head": work.scored / whole.scored,
        }

        def scaled(counts: Mapping[str, int]) -> int:
            return round(sum(count * shares.get(part, shares["layers"]) for part, count in counts.items()))

        found = self._trace(largest, backward=True)
        passes = (work.trained_tokens + work.looked_tokens) / work.tokens
        parts = {
            "forward": round(scaled(found.forward) * passes),
            "backward": round(scaled(found.backward) * work.trained_tokens / work.tokens),
        }
        if self._loss.needs.reference:
            parts["reference"] = scaled(self._trace(largest, backward=False, of_reference=True).forward)
        return parts

    def memory(self, way: str) -> dict[str, int]:
        """Bytes of one process by part, at the fullest moment."""
        training, largest = self._config.training, self._work.largest
        (around,) = (step for step in self._work.replayed if any(part is largest for part in step))
        several = sum(map(bool, around)) > self._processes
        weights = self._weights(self._policy, self._config.model)
        gradients = bytes_of(self._trainable)
        state = sum(sum(state_sizes(training.optimizer, each)) for each in self._trainable)
        found = self._trace(largest, backward=True, accumulates=several)
        live = way == "live" and self._loss.needs.reference
        reference = self._reference_bytes() if live else 0
        parts = {
            "weights": weights // self._shards,
            "gradients": gradients // self._shards,
            "optimizer": state // self._shards,
            "reference": reference // self._shards,
            "exchange": 0,
        }
        if self._processes > 1:
            parts["exchange"] = gradients if self._sharding == "ddp" else sum(gathered_bytes(self._policy))
        passes = {name: found.peak.get(name, 0) for name in ("layers", "attention", "head", "backward")}
        state_then = parts["optimizer"] if self._work.num_steps > 1 else 0
        gradients_then = parts["gradients"] if several else found.peak.get("gradients", 0) // self._shards
        at_backward = gradients_then + state_then + sum(passes.values())
        update = step_bytes(training.optimizer, self._trainable, self._device) // self._shards
        at_update = parts["gradients"] + parts["optimizer"] + found.kept + update
        if at_backward >= at_update:
            parts |= {"gradients": gradients_then, "optimizer": state_then, **passes}
        else:
            parts |= {"head": found.kept, "update": update}
        if self._device == "cpu":
            fixed = parts["weights"] + parts["reference"] + parts["exchange"]
            parts["process"] = self._held
            parts["holes"] = max(0, self._replayed(live) - (sum(parts.values()) - fixed - self._held))
        return {name: size for name, size in parts.items() if size}

    def _reference_bytes(self) -> int:
        if self._kind is Kind.INITIAL_ADAPTER:
            return bytes_of(self._trainable)
        return self._weights(self._reference, self._config.reference.model or self._config.model)

    def _weights(self, scorer: Scorer | None, model: ModelConfig) -> int:
        if scorer is None:
            return 0
        whole = bytes_of(scorer.parameters()) + sum(each.numel() * each.element_size() for each in scorer.buffers())
        if model.quantization is None:
            return whole
        head = scorer.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        inside = [
            own
            for name, own in scorer.model.named_modules()
            if isinstance(own, nn.Linear) and own is not head and "lora_" not in name
        ]
        numbers = sum(own.weight.numel() for own in inside)
        return (
            whole
            - sum(own.weight.numel() * own.weight.element_size() for own in inside)
            + round(numbers * _QUANTIZED[model.quantization])
        )

    def _replayed(self, live: bool) -> int:
        """The most that glibc holds while gradients, optimiser state and activations come and go."""
        heap = Heap()
        state = [
            (number, place, size // self._shards)
            for number, each in enumerate(self._trainable)
            for place, size in enumerate(state_sizes(self._config.training.optimizer, each))
        ]
        blocks: list[object] = []
        for step, parts in enumerate(self._work.replayed):
            own = [part for part in parts[:: self._processes] if part]
            if self._loss.needs.reference and (live or step == 0):
                for place, part in enumerate(own):
                    left = self._play(
                        heap, self._trace(part, backward=False, of_reference=live), (step, "reference", place)
                    )
                    for block in left:
                        heap.give_back(block)
            for place, part in enumerate(own):
                blocks += self._play(heap, self._trace(part, backward=True, accumulates=place > 0), (step, place))
            if step == 0:
                for number, each, size in state:
                    heap.take(("state", number, each), size)
            for block in blocks:
                heap.give_back(block)
            blocks = []
        return heap.peak

    @staticmethod
    def _play(heap: Heap, found: Trace, name: object) -> list[object]:
        """Ask for every block as the trace did; those that are left."""
        left: dict[object, None] = {}
        for number, size in found.events:
            block = (name, number)
            if size:
                heap.take(block, size)
                left[block] = None
            else:
                heap.give_back(block)
                del left[block]
        return list(left)

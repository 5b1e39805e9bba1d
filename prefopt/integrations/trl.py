"""Any pairwise loss of prefopt inside TRL's DPOTrainer, which keeps its data, models, metrics and accumulation."""

from __future__ import annotations

import copy
import dataclasses
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import pad

from prefopt.batch import PreferenceBatch, Tokens
from prefopt.draws import Draws
from prefopt.errors import ConfigError
from prefopt.loss import Loss, LossOutput, listed
from prefopt.registry import get_loss
from prefopt.weighted import Objective, WeightedSum

try:
    from trl import DPOConfig, DPOTrainer
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise
    raise ImportError("prefopt.integrations.trl needs trl; pip install 'prefopt[compare]'") from None

# Settings of DPOConfig that would change nothing here, and what to set instead.
_ON_THE_LOSS = {
    "loss_type": "name the loss in `loss`",
    "loss_weights": "pass a prefopt.weighted.WeightedSum as `loss`",
    "beta": "set `beta` of the loss",
    "label_smoothing": "set `label_smoothing` of a loss that has it",
    "f_divergence_type": "set `divergence` of a loss that has it",
    "f_alpha_divergence_coef": "set `alpha` (1 less this coefficient) of a loss with a `divergence`",
    "ld_alpha": "set `alpha` of a loss that scales late tokens",
    "use_weighting": "take a loss that weighs its pairs",
    "discopop_tau": "set `tau` of a loss that has it",
}
_OF_THE_REFERENCE = ("precompute_ref_log_probs", "precompute_ref_batch_size", "sync_ref_model")
_STATE_FILE = "prefopt_state.safetensors"


class PrefoptDPOTrainer(DPOTrainer):  # type: ignore[misc]  # it is Any to mypy
    """TRL's DPOTrainer with a loss of prefopt in place of its own.

    Each micro-batch of each process is reduced on its own and TRL averages those values. That is exact for losses whose
    rows do not depend on each other and whose terms are means over rows. A coupled loss, and a mean over tokens, is
    exact over one micro-batch only: with `gradient_accumulation_steps` above 1 or several processes, take
    `prefopt train` where that matters. A loss's state moves on once per micro-batch in training and never in
    evaluation; checkpoints carry it. Random numbers are keyed by `DPOConfig.seed`, the global step and the pair's
    token ids, since TRL has no row ids: neither order nor batch size changes them.

    `rewards/chosen`, `rewards/rejected`, `rewards/margins` and `rewards/accuracies` (a tie counts 0, as in TRL) are
    those of the loss's own reward, and the loss's own metrics are logged as `loss/NAME`; all others are TRL's.

    Args:
        model: as in DPOTrainer.
        ref_model: as in DPOTrainer; a loss without a reference loads and runs none.
        args: absent: `DPOConfig()`; it is copied.
        loss: the name of a loss, a loss, or a `prefopt.weighted.WeightedSum`; it reads pairs.

    Everything else is passed on to DPOTrainer.

    Raises:
        UnknownNameError: no plugin registers the name.
        ConfigError: the loss needs what TRL's batches do not hold, or a setting of `args` would change nothing.
    """

    _name = "prefopt"
    _tag_names = ("trl", "prefopt")
    _paper: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: DPOConfig | None = None,
        *others: Any,
        loss: str | Objective,
        **settings: Any,
    ) -> None:
        args = DPOConfig() if args is None else copy.copy(args)
        self.loss = get_loss(loss) if isinstance(loss, str) else loss
        _check_loss(self.loss, args)
        _check_settings(self.loss, args, ref_model)
        needs = self.loss.needs
        self.loss_state: Mapping[str, Tensor] = self.loss.initial_state()
        precompute = args.precompute_ref_log_probs
        # TRL loads no reference that it takes for precomputed; `_precompute_ref_logps` below then computes none.
        args.precompute_ref_log_probs = precompute or not needs.reference
        # TRL's head returns sums of squares for its own weighting only.
        args.use_weighting = needs.distribution == "policy"
        super().__init__(model, ref_model, args, *others, **settings)
        self.args.precompute_ref_log_probs = self.precompute_ref_logps = precompute
        self.args.use_weighting = self.use_weighting = False
        # Without a loss of its own, TRL's method runs the model, logs, and returns the router loss of an MoE, or 0.
        self.loss_types: list[str] = []
        self.loss_weights: list[float] = []
        self.args.loss_type = [repr(self.loss)]  # what trackers record
        if (needs.coupled or needs.state) and args.gradient_accumulation_steps * self.accelerator.num_processes > 1:
            warnings.warn(
                f"loss {self.loss.name} reads the whole optimiser batch, and TRL shows it one micro-batch of one "
                "process at a time: the result depends on how the batch is cut; set gradient_accumulation_steps to 1 "
                "in one process, or use `prefopt train`",
                stacklevel=2,
            )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one micro-batch: per term, the sum of its values over the sum of its normaliser."""
        mode = "train" if self.model.training else "eval"
        sums, reference = self._reference(inputs)
        policy, held = _Heard(model), self.precompute_ref_logps
        self.precompute_ref_logps = True  # the reference is known, so TRL's method need not run it
        try:
            given = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), sums, strict=True))
            trl = super().compute_loss(policy, {**inputs, **given}, return_outputs, num_items_in_batch)
        finally:
            self.precompute_ref_logps = held
        batch = self._batch(inputs, policy.outputs, sums, reference)
        output = self.loss(batch)
        if mode == "train" and output.state:
            self.loss_state = {name: value.detach() for name, value in output.state.items()}
        self._log_rewards(mode, batch, output)
        loss = torch.stack([values.sum() / count.sum() for values, count in output.all_terms().values()]).sum()
        return (loss + trl[0], trl[1]) if return_outputs else loss + trl

    def _reference(self, inputs: Any) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """The reference's sums, chosen and rejected [B] (0 where none is needed), and its log-probs [2B, S - 1]."""
        if not self.loss.needs.reference:
            none = inputs["input_ids"].new_zeros(len(inputs["input_ids"]) // 2, dtype=torch.float32)
            return (none, none), None
        if self.precompute_ref_logps:
            return (inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]), None
        reference = _Heard(self.model if self.ref_model is None else self.ref_model)
        sums = self.compute_ref_log_probs(reference, inputs)
        return sums, reference.outputs.log_probs

    def _batch(self, inputs: Any, outputs: Any, sums: Sequence[Tensor], reference: Tensor | None) -> PreferenceBatch:
        needs = self.loss.needs
        scored = inputs["completion_mask"][:, 1:].bool()
        # Prompt tuning puts virtual tokens before the real ones.
        policy, reference, log_sum_squares = (
            None if values is None else values[:, -scored.shape[1] :]
            for values in (outputs.log_probs, reference, outputs.log_sum_sq_probs)
        )
        assert policy is not None
        chosen, rejected = policy.sum(1).chunk(2)
        lengths = scored.sum(1)
        tokens: list[Tokens | None] = [None, None]
        if needs.tokens or needs.distribution:
            for side, half in enumerate((slice(None, len(chosen)), slice(len(chosen), None))):
                tokens[side] = Tokens(
                    policy=policy[half][scored[half]],
                    offsets=pad(lengths[half].cumsum(0), (1, 0)),
                    reference=None if reference is None else reference[half][scored[half]],
                    log_sum_squares=None if log_sum_squares is None else log_sum_squares[half][scored[half]].detach(),
                )
        return PreferenceBatch.from_pairs(
            policy_chosen=chosen,
            policy_rejected=rejected,
            reference_chosen=sums[0] if needs.reference else None,
            reference_rejected=sums[1] if needs.reference else None,
            chosen_lengths=lengths[: len(chosen)],
            rejected_lengths=lengths[len(chosen) :],
            chosen_tokens=tokens[0],
            rejected_tokens=tokens[1],
            state={name: value.to(chosen.device) for name, value in self.loss_state.items()},
            draws=Draws(_row_ids(inputs), seed=self.args.seed, step=self.state.global_step),
        )

    @torch.no_grad()
    def _log_rewards(self, mode: str, batch: PreferenceBatch, output: LossOutput) -> None:
        """Put the loss's own rewards in place of those that TRL has just logged, and its metrics beside them."""
        chosen, rejected = self.loss.reward(batch.chosen), self.loss.reward(batch.rejected)
        rewards = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/margins": chosen - rejected,
        }
        for name in rewards:
            self._metrics[mode][name].pop()
        own = {f"loss/{name}": values for name, values in output.metrics.items() if not name.endswith("_reward")}
        for name, values in {**rewards, **own}.items():
            self._metrics[mode][name].append(self.accelerator.gather(values).float().mean().item())

    def _precompute_ref_logps(self, dataset: Any, *arguments: Any) -> Any:
        return super()._precompute_ref_logps(dataset, *arguments) if self.loss.needs.reference else dataset

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.loss_state and self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            safetensors.torch.save_file(
                {name: value.contiguous().clone() for name, value in self.loss_state.items()}, folder / _STATE_FILE
            )

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and self.loss_state:
            self.loss_state = safetensors.torch.load_file(Path(checkpoint) / _STATE_FILE)


class _Heard:
    """A model to call, and what its first call returned."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.outputs: Any = None

    def __call__(self, **inputs: Any) -> Any:
        outputs = self.model(**inputs)
        self.outputs = outputs if self.outputs is None else self.outputs
        return outputs


def _row_ids(inputs: Any) -> tuple[int, ...]:
    """A number made of each pair's token ids, padding left out."""
    kept = zip(inputs["input_ids"].cpu(), inputs["attention_mask"].cpu().bool(), strict=True)
    texts = [ids[real].numpy().tobytes() for ids, real in kept]
    half = len(texts) // 2
    return tuple(zlib.crc32(texts[half + row], zlib.crc32(texts[row])) for row in range(half))


def _check_loss(loss: Any, args: Any) -> None:
    if not isinstance(loss, Loss | WeightedSum):
        raise ConfigError(f"loss is {loss!r}; it must be the name of a loss, a loss, or a WeightedSum of losses")
    needs = loss.needs
    absent = {
        f"rows of {listed(needs.rows)}": "pairs" not in needs.rows,
        "scores": needs.scores,
        "mismatched completions": needs.mismatched,
        "the reference's whole distribution": needs.distribution == "both",
    }
    if any(absent.values()):
        missing = " and ".join(what for what, needed in absent.items() if needed)
        raise ConfigError(f"loss {loss.name} needs {missing}, which DPOTrainer has not; use `prefopt train`")
    if args.precompute_ref_log_probs and needs.reference and needs.tokens:
        raise ConfigError(
            f"loss {loss.name} reads the reference's log-prob of every token, and TRL precomputes sums alone; leave "
            "DPOConfig.precompute_ref_log_probs off"
        )


def _check_settings(loss: Objective, args: Any, ref_model: Any) -> None:
    changed = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(DPOConfig)
        if field.name in {*_ON_THE_LOSS, *_OF_THE_REFERENCE}
        and getattr(args, field.name) != (field.default_factory() if callable(field.default_factory) else field.default)
    }
    if changed.get("beta") == getattr(loss, "beta", None):
        changed.pop("beta", None)
    for name in _ON_THE_LOSS:
        if name in changed:
            raise ConfigError(
                f"DPOConfig.{name} = {changed[name]!r} would change nothing, since the loss is prefopt's {loss.name}; "
                f"leave it out and {_ON_THE_LOSS[name]}"
            )
    if not loss.needs.reference:
        given = [f"DPOConfig.{name}" for name in changed] + ["ref_model"] * (ref_model is not None)
        if given:
            raise ConfigError(f"loss {loss.name} reads no reference, so {given[0]} would change nothing; leave it out")

"""One case for each key of a config: what it is set to, beside what, and what shows that it was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.peers.runs import Trained
from tests.peers.served import Asked


@dataclass(frozen=True)
class Seen:
    """What a run left behind, and what it did on the way.

    Attributes:
        run: its folder and its record; of an evaluation, what evaluation.json holds.
        asked: what a server was asked.
        forwards: the tokens of every forward pass of a model.
        num_layers: forward passes of attention layers.
        children: whether other processes worked for it.
    """

    run: Trained
    asked: Asked
    forwards: tuple[int, ...]
    num_layers: int
    children: bool

    @property
    def weights(self) -> dict[str, list[float]]:
        return {name: weight.float().flatten().tolist() for name, weight in self.run.weights.items()}

    @property
    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.run.folder)) for path in self.run.folder.rglob("*"))


def weights(seen: Seen) -> Any:
    return seen.weights


def losses(seen: Seen) -> Any:
    return seen.run.losses


def steps(seen: Seen) -> Any:
    return seen.run.steps


def files(seen: Seen) -> Any:
    return seen.files


def forwards(seen: Seen) -> Any:
    return seen.forwards


def reference(seen: Seen) -> Any:
    return {name: value for name, value in seen.run.record["reference"].items() if name != "store"}


def identity(seen: Seen) -> Any:
    return seen.run.record["reference"]["identity"]


def evaluation(seen: Seen) -> Any:
    return seen.run.record["evaluation"]


def data(seen: Seen) -> Any:
    return {name: value for name, value in seen.run.record["data"].items() if name != "seconds"}


def samples(seen: Seen) -> Any:
    return [sample["completion"] for sample in seen.run.record["samples"]]


def win_rate(seen: Seen) -> Any:
    return seen.run.record.get("win_rate")


def bodies(seen: Seen) -> Any:
    return seen.asked.bodies


def dtypes(seen: Seen) -> Any:
    return {str(weight.dtype) for weight in seen.run.weights.values()}


@dataclass(frozen=True)
class Case:
    """Two runs that differ in one key: `sees` is not the same, or one of them is refused and says `told`.

    Attributes:
        value: what the key is set to. In text, {other} and the like stand for places that the test makes.
        sees: what is looked at.
        given: settings of both runs.
        told: what a refusal says; None: none is allowed.
        key: what is set, where it is not the key itself (a list as a whole).
        first: settings of a run that comes before both.
        command: what is run.
    """

    value: Any
    sees: Callable[[Seen], Any] = weights
    given: Mapping[str, Any] = field(default_factory=dict)
    told: str | None = None
    key: str | None = None
    first: Mapping[str, Any] | None = None
    command: Literal["train", "evaluate"] = "train"


LORA = {"model.adapter.r": 2, "model.adapter.target_modules": ["q_proj"]}
CACHED = {"reference.mode": "cached"}
OTHER = {"reference.model.name": "{other}"}
HELD_OUT = {"data.evaluation": 3}
KEPT = {"checkpoints.every_steps": 1, "training.max_steps": 4}
MIXED = {"data.train": [{"source": "{train}"}, {"source": "{held_out}"}]}
BOARD = {"tracking.trackers": ["tensorboard"]}

DEAD = "http://127.0.0.1:9/v1"  # nobody listens there
WRITTEN = {
    **{"data.evaluation": "{held_out}", "evaluation.num_prompts": 2},
    **{"evaluation.samples": 1, "evaluation.max_new_tokens": 6},
}


def evaluated(value: Any, sees: Callable[[Seen], Any], given: Mapping[str, Any], **more: Any) -> Case:
    return Case(value, sees, {**WRITTEN, **given}, command="evaluate", **more)


def served(place: str, **more: Any) -> dict[str, Case]:
    """The keys of a served model, which the policy's and the judge's have in common."""

    def with_model(name: str = "quick") -> dict[str, Any]:
        settings = {"url": "{server}", "model": name, "retries": 0, **more}
        return {f"{place}.{key}": value for key, value in settings.items()}

    cases = {
        "url": evaluated("{server}", bodies, {**with_model(), f"{place}.url": DEAD}, told="cannot be reached"),
        "model": evaluated("other", lambda seen: {body["model"] for body in seen.asked.bodies}, with_model()),
        "api_key_env": evaluated("PREFOPT_PEERS_KEY", lambda seen: seen.asked.keys, with_model()),
        "concurrency": evaluated(1, lambda seen: seen.asked.most, with_model()),
        "timeout_seconds": evaluated(0.1, bodies, with_model("slow"), told="no answer within 0.1 s"),
        "retries": evaluated(1, bodies, with_model("flaky"), told="answers 500"),
    }
    return {f"{place}.{key}": case for key, case in cases.items()}


JUDGED = {"evaluation.judge.name": "length"}
CASES: dict[str, Case] = {
    "model.name": Case("{other}"),
    "model.revision": Case("second", given={"model.name": "org/name"}),
    "model.dtype": Case("bfloat16", dtypes),
    "model.autocast": Case("bfloat16", losses, {"loss.name": "simpo"}),
    "model.quantization": Case("8bit", given=LORA, told="model.quantization"),
    "model.gguf_file": Case("nowhere.gguf", told="nowhere.gguf"),
    "model.attention": Case("flex_attention", told="model.attention"),  # without a GPU
    "model.adapter.path": Case("{adapter}", lambda seen: seen.run.losses[0], {"reference.model.name": "{model}"}),
    "model.adapter.merge": Case(True, files, LORA),
    "data.train": Case("{held_out}"),
    "data.train.source": Case([{"source": "{train}"}, {"source": "{others}"}], given=MIXED, key="data.train"),
    "data.train.weight": Case(
        [{"source": "{train}", "weight": 9.0}, {"source": "{held_out}"}], given=MIXED, key="data.train"
    ),
    "data.mixture_ends": Case("all", steps, {**MIXED, "training.max_steps": None}),
    "data.num_proc": Case(2, lambda seen: seen.children),
    "data.cache_dir": Case("{folder}/rows", lambda seen: (seen.run.folder.parent / "rows").exists()),
    "data.streaming": Case(True),
    "data.shuffle_buffer": Case(1, given={"data.streaming": True}),
    "data.evaluation": Case("{held_out}", evaluation),
    "data.max_length": Case(16, data),
    "data.on_bad_row": Case("skip", data, {"data.train": "{bad}"}, told="row 10"),
    "loss.name": Case("ipo", losses, {"reference.model.name": "{other}"}),
    "loss.weight": Case(3.0, losses),
    "reference.mode": Case("cached", reference),
    "reference.model.name": Case("{other}", losses),
    "reference.model.revision": Case("second", losses, {"reference.model.name": "org/name"}),
    "reference.model.dtype": Case("bfloat16", identity, {**OTHER, **CACHED}),
    "reference.model.autocast": Case("bfloat16", identity, {**OTHER, **CACHED}),
    "reference.model.quantization": Case("8bit", losses, OTHER, told="quantization"),
    "reference.model.gguf_file": Case("nowhere.gguf", given=OTHER, told="nowhere.gguf"),
    "reference.model.attention": Case("flex_attention", losses, OTHER, told="attention"),
    "reference.model.adapter.path": Case("{adapter}", losses, {"reference.model.name": "{model}"}),
    "reference.model.adapter.merge": Case(True, losses, {"reference.model.name": "{model}"}, told="merge"),
    "reference.cache_dir": Case("{folder}/elsewhere", lambda seen: seen.run.record["reference"]["store"], CACHED),
    "reference.strict": Case(True, given=CACHED, told="reference.strict"),
    "reference.verify_rows": Case(2, reference, CACHED, first=CACHED),
    "reference.update_steps": Case(1, given={"training.max_steps": 3}),
    "reference.update_weight": Case(0.3, given={"reference.update_steps": 1, "training.max_steps": 3}),
    "training.batch_size": Case(3),
    "training.tokens_per_microbatch": Case(30, forwards),
    "training.optimizer": Case("adamw"),
    "training.learning_rate": Case(3e-3),
    "training.scheduler": Case("linear"),
    "training.warmup_steps": Case(2),
    "training.max_grad_norm": Case(1e-3),
    "training.epochs": Case(2.0, steps, {"training.max_steps": None}),
    "training.max_steps": Case(3, steps),
    "training.stop_on_divergence": Case(
        True,
        steps,
        {"training.learning_rate": 0.1, "training.optimizer": "adamw", "training.max_steps": 60},
        told="since the run began",
    ),
    "training.gradient_checkpointing": Case(True, lambda seen: seen.num_layers),
    "training.seed": Case(1),
    "evaluation.every_steps": Case(1, steps, HELD_OUT),
    "evaluation.samples": Case(2, evaluation, HELD_OUT),
    "evaluation.max_new_tokens": Case(2, evaluation, {**HELD_OUT, "evaluation.samples": 2}),
    "evaluation.num_prompts": evaluated(1, samples, {}),
    "evaluation.temperature": evaluated(0.0, samples, {}),
    "evaluation.top_p": evaluated(0.01, samples, {}),
    "evaluation.judge.name": evaluated("length", win_rate, {}),
    "evaluation.judge.model": evaluated("{judge}", win_rate, {}),
    "evaluation.against": evaluated("chosen", win_rate, JUDGED),
    **served("evaluation.policy_endpoint"),
    **{
        key: case
        for key, case in served("evaluation.judge", prompt="dialogue").items()
        if key != "evaluation.judge.model"  # shown by a reward model
    },
    "evaluation.judge.prompt": evaluated(
        "summarisation",
        bodies,
        {"evaluation.judge.url": "{server}", "evaluation.judge.model": "quick", "evaluation.judge.prompt": "dialogue"},
    ),
    "checkpoints.every_steps": Case(1, files),
    "checkpoints.every_minutes": Case(1e-9, files),
    "checkpoints.keep_last": Case(1, files, KEPT),
    "checkpoints.keep_best": Case("loss", files, {**KEPT, **HELD_OUT, "evaluation.every_steps": 1}),
    "tracking.trackers": Case(["tensorboard"], files, told="tensorboard"),
    "tracking.project": Case("mine", files, BOARD, told="tensorboard"),
    "tracking.name": Case("mine", files, BOARD, told="tensorboard"),
    "output_dir": Case("{folder}/elsewhere", lambda seen: seen.run.folder.name),
    "plugins.path": Case("{plugin}", losses, {"loss.name": "hinge_example"}, told="unknown loss 'hinge_example'"),
    "plugins.sha256": Case("0" * 64, given={"plugins.path": "{plugin}"}, told="is not the one the config names"),
}

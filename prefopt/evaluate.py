"""Evaluating a trained model on the held-out rows of its run: from a validated config to `evaluation.json`."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import prefopt
from prefopt.config import RunConfig
from prefopt.data.row import Row
from prefopt.data.sources import Source
from prefopt.engine.loading import load_tokenizer
from prefopt.engine.logps import TokenLogps
from prefopt.errors import ConfigError, PrefoptError
from prefopt.evaluation.calibration import calibration
from prefopt.evaluation.displacement import displacements
from prefopt.evaluation.endpoint import Endpoint, Request
from prefopt.evaluation.estimates import mean_of, quantiles_of
from prefopt.evaluation.judges.comparison import Comparison, Judge
from prefopt.evaluation.judges.judgements import FILE, Judgements
from prefopt.evaluation.judges.opening import open_judge
from prefopt.evaluation.judges.scores import RewardModelJudge, right_number
from prefopt.evaluation.judges.win_rate import win_rate
from prefopt.evaluation.models import Models, reference_model, trained_model
from prefopt.evaluation.rewards import HeldOut
from prefopt.evaluation.texts import RowText, row_texts
from prefopt.evaluation.written import Written, stream
from prefopt.preparation import check_needs, prepare
from prefopt.reference.identity import identify
from prefopt.training.output import load_state, write_json
from prefopt.watcher import Watcher
from prefopt.weighted import Objective

EVALUATION = "evaluation.json"

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def evaluate(
    config: RunConfig,
    loss: Objective,
    *,
    model: str | None = None,
    output: str | None = None,
    overwrite: bool = False,
    train: Source | None = None,
    watcher: Watcher | None = None,
    provenance: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Measure a trained model on the held-out rows of its run, against the run's reference.

    Args:
        config: the validated config of the run.
        loss: the loss it names, built by the registry.
        model: the folder or Hub id of the model to evaluate; absent: the one in the config's `output_dir`.
        output: the file to write; absent: `evaluation.json` in `output_dir`. Judgements go into the same folder.
        overwrite: replace that file.
        train: rows in memory or a `datasets.Dataset`, in place of the config's `data.train`, where held-out rows are
            taken from it.
        watcher: is told of progress.
        provenance: plugin -> version, kept in the file.

    Returns:
        What the file holds.

    Raises:
        PrefoptError: anything the user can mend: settings, data, models, or a server that does not answer. Where a
            judge fails, what was measured before is in the file.
    """
    started = time.time()
    settings, watcher = config.evaluation, watcher or Watcher()
    place = Path(config.output_dir) / EVALUATION if output is None else Path(output)
    held_out_config, source = _held_out_source(config, config.data.train if train is None else train)
    trained, initial = trained_model(config, model), reference_model(config)
    _check_place(place, overwrite=overwrite)
    check_needs(held_out_config, loss, source)
    judge = None if settings.judge is None else open_judge(settings.judge, config.training.seed)
    judgements = None if judge is None else Judgements(place.with_name(FILE))
    endpoint = None
    if settings.policy_endpoint is not None:
        endpoint = Endpoint(settings.policy_endpoint, "evaluation.policy_endpoint")

    tokenizer = load_tokenizer(config.model)
    alone = not isinstance(config.data.evaluation, int)  # held-out rows by themselves may all have one label
    data = prepare(held_out_config, loss, tokenizer, source, contrast=not alone)
    rows = list(data.evaluation if isinstance(config.data.evaluation, int) else data.train)
    for line in [line for report in data.reports.values() for line in report.lines()] + data.notes:
        watcher.say(line)
    prompted = rows[: settings.num_prompts]
    if 0 < len(prompted) < settings.num_prompts and settings.num_prompts != type(settings)().num_prompts:
        watcher.say(f"evaluation.num_prompts = {settings.num_prompts}, but only {len(rows)} rows are held out")
    texts: list[RowText] = []
    if judge is not None or endpoint is not None:
        texts = row_texts(_parts(source), prompted, tokenizer, streaming=held_out_config.data.streaming)
    if settings.judge is not None and settings.judge.name == "gsm8k":
        for row, text in zip(prompted, texts, strict=True):
            right_number(row.name, text.truth)  # before any model is loaded
    # What a server writes comes first: if it does not answer, no time was spent on anything else.
    answers = None if endpoint is None else _served(endpoint, texts, config, watcher)

    held_out = HeldOut(rows, loss, tokens_per_microbatch=config.training.tokens_per_microbatch)
    models = Models(config, loss, trained, initial, tokenizer, rows, watcher)
    reference, used = models.reference_logps()
    if loss.needs.reference:
        held_out.score_reference(reference)
    before = held_out.reference or held_out.score(reference)
    after = held_out.score_policy(models.policy(rows))
    moved = displacements(held_out.assembly, after, before)
    record: dict[str, Any] = {
        "prefopt": prefopt.__version__,
        "loss": loss.name,
        "seed": config.training.seed,
        "model": {"name": trained.name, "identity": identify(trained).digest},
        "reference": {"name": initial.name, **used},
        "data": {
            "num_rows": len(rows),
            "reports": {name: report.as_dict() for name, report in data.reports.items()},
            "notes": data.notes,
        },
        "held_out": _rewards(held_out, after, load_state(Path(trained.name))),
        "displacement": {side: own.as_dict() for side, own in moved.items()},
    }

    written = Written(models, config, prompted)
    if prompted and answers is None:
        watcher.say(f"the policy writes answers to {len(prompted):,} held-out prompts")
        answers = written.texts("policy")
        record["written"] = written.lengths()
        record["kl"] = {"data": written.kl_on_data(rows), "sampled": written.kl_sampled()}
    elif models.reference.loaded:
        record["kl"] = {"data": written.kl_on_data(rows)}
    if answers is not None:
        record["samples"] = [
            {"row": row.name, "prompt": str(tokenizer.decode(list(row.prompt))), "completion": answer}
            for row, answer in zip(prompted, answers, strict=True)
        ]
    failed: PrefoptError | None = None
    if judge is not None and judgements is not None and answers is not None:
        others: Sequence[str | None] = [text.chosen for text in texts]
        if settings.against == "reference":
            watcher.say(f"the reference writes answers to {len(prompted):,} held-out prompts")
            others = written.texts("reference")
        try:
            comparisons = _comparisons(prompted, texts, answers, others)
            record["win_rate"] = {"against": settings.against} | _win_rate(judge, judgements, comparisons, watcher)
            record["win_rate"]["rows_without_other"] = len(prompted) - len(comparisons)
        except PrefoptError as error:
            failed = error
    record |= {
        "settings": settings.model_dump(mode="json"),
        "wall_seconds": round(time.time() - started, 2),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers")},
        "plugins": dict(provenance or {}),
    }
    record = spelled(record)
    write_json(place, record)
    if failed is not None:
        raise type(failed)(
            f"{failed}; what else was measured is in {place}, what was judged so far in {place.with_name(FILE)}, and a "
            "new start with --overwrite asks for the rest alone"
        ) from failed
    return record


def _check_place(place: Path, *, overwrite: bool) -> None:
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise ConfigError(f"prefopt evaluate was started with {processes} processes, but it runs in one; start one")
    if place.is_dir():
        raise ConfigError(f"output {str(place)!r} is a folder; name a file in it, as in {str(place / EVALUATION)!r}")
    if not place.parent.is_dir():
        raise ConfigError(f"output {str(place)!r} lies in no folder that is there; make {str(place.parent)!r} first")
    if place.exists() and not overwrite:
        raise ConfigError(
            f"{str(place)!r} is there already; pass --overwrite to replace it, or --output for another file"
        )


def _held_out_source(config: RunConfig, train: Source) -> tuple[RunConfig, Source]:
    """A config that leads to the held-out rows and to no others it can do without, and their source."""
    evaluation = config.data.evaluation
    if evaluation is None:
        raise ConfigError("prefopt evaluate needs held-out rows, and data.evaluation names none; set it")
    if isinstance(evaluation, int):
        return config, train
    own = {"train": evaluation, "evaluation": None, "streaming": False}
    return config.model_copy(update={"data": config.data.model_copy(update=own)}), evaluation


def _parts(source: Any) -> Sequence[Source]:
    """The sources of a mixture, or the one there is."""
    return [part.source for part in source] if isinstance(source, tuple) else [source]


def _served(endpoint: Endpoint, texts: Sequence[RowText], config: RunConfig, watcher: Watcher) -> list[str]:
    """What the server writes to each prompt."""
    settings, seed = config.evaluation, stream(config.training.seed, "policy")
    # With a temperature the first prompt is asked twice, to tell whether the server draws at all.
    asked = [*texts, texts[0]] if settings.temperature else texts
    requests = [
        Request(text.prompt, settings.max_new_tokens, settings.temperature, settings.top_p, (seed + number) % 2**31)
        for number, text in enumerate(asked)
    ]
    answers: dict[int, str] = {}
    watcher.begin("sample", len(requests))
    try:
        for number, answer in endpoint.answers(requests):
            answers[number] = answer
            watcher.scored(1, 1)
    finally:
        watcher.end()
    if settings.temperature and answers[0] == answers[len(texts)]:
        watcher.say(
            f"the server wrote the same to one prompt under two seeds, at temperature {settings.temperature:g}: it may "
            "write greedily, as `transformers serve` does unless the model's generation_config.json has do_sample: true"
        )
    return [answers[number] for number in range(len(texts))]


def _rewards(held_out: HeldOut, policy: TokenLogps, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Loss and accuracy as in run.json, margins and calibration."""
    report = held_out.report(policy, state)
    rewards = held_out.rewards(policy)
    if rewards is None:
        return report.as_dict()
    quantiles = quantiles_of(rewards.margins, rewards.weights, _QUANTILES)
    margins = mean_of(rewards.margins, rewards.weights).as_dict()
    calibrated = calibration(*held_out.margins(policy))
    # Whether sigmoid(margin) is what the loss itself takes for the chance that chosen is preferred.
    same = held_out.assembly.kind == "pairs" and abs(calibrated.log_loss - report.loss) <= 1e-4 * abs(report.loss)
    return report.as_dict() | {
        "margins": margins | {"quantiles": dict(zip(map(str, _QUANTILES), quantiles, strict=True))},
        "calibration": {"loss_is_bradley_terry": same, **calibrated.as_dict()},
    }


def _comparisons(
    prompted: Sequence[Row], texts: Sequence[RowText], answers: Sequence[str], others: Sequence[str | None]
) -> list[Comparison]:
    found = [
        Comparison(row.name, row.number, text.prompt, answer.strip(), other.strip(), text.truth)
        for row, text, answer, other in zip(prompted, texts, answers, others, strict=True)
        if other is not None
    ]
    if not found:
        raise ConfigError(
            "evaluation.against is 'chosen', but no held-out row that was asked has a good completion; use 'reference'"
        )
    return found


def _win_rate(
    judge: Judge, judgements: Judgements, comparisons: Sequence[Comparison], watcher: Watcher
) -> dict[str, Any]:
    watcher.begin("judge", len(comparisons))
    try:
        found = win_rate(judge, comparisons, judgements, lambda num_new: watcher.scored(1, num_new)).as_dict()
    finally:
        watcher.end()
    if isinstance(judge, RewardModelJudge):
        found["texts_truncated"] = judge.num_truncated
    return {"judge": dict(judge.about), **found}


def spelled(value: Any) -> Any:
    """The same values, numbers that JSON does not have as text.

    >>> spelled({"kl": math.inf, "loss": [0.5]})
    {'kl': 'inf', 'loss': [0.5]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(item) for item in value]
    return value

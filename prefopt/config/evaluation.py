"""The section `evaluation`."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import Field
from pydantic.json_schema import JsonSchemaValue

from prefopt.config.place import Place
from prefopt.errors import unknown_name
from prefopt.section import Section

JUDGES = ("gsm8k", "length", "sentiment")
"""Judges that are functions of a text."""


def _address(key: str, url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{key} {url!r} is no address; it must begin with http:// or https://")
    try:
        place = urlsplit(url)
        named = place.hostname and (place.port is None or place.port > 0)
    except ValueError as error:
        raise ValueError(f"{key} {url!r} is no address: {error}") from None
    if not named:
        raise ValueError(f"{key} {url!r} names no server")
    if "@" in place.netloc:
        raise ValueError(f"{key} holds a user or a key; name the environment variable that holds it (api_key_env)")
    return url.rstrip("/")


class EndpointConfig(Section):
    """A model served behind an OpenAI-compatible address (needs prefopt[judges])."""

    url: str
    """What the server's paths begin with, as in http://localhost:8000/v1."""
    model: str = Field(min_length=1)
    """What the server calls the model."""
    api_key_env: str | None = Field(None, min_length=1)
    """The environment variable that holds the key; the key itself stands in no config. null: the server asks none."""
    concurrency: int = Field(8, ge=1)
    """Requests under way at the same time."""
    timeout_seconds: float = Field(120.0, gt=0, allow_inf_nan=False)
    """How long one answer may take."""
    retries: int = Field(4, ge=0)
    """How often a request is sent again that found no server, a busy one or one in trouble, after growing pauses."""

    @pydantic.field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        return _address("evaluation.policy_endpoint.url", url)


class JudgeConfig(Section):
    """Who says which of two answers is better: `name`, or `model`, or `model` behind `url`."""

    name: str | None = None
    """A function of the text: gsm8k (the right number), length (the longer one), sentiment (VADER's score)."""
    model: Place | None = None
    """A reward model, a sequence classifier with one label: a folder or a Hub id; with `url` what the server calls the
    model that judges."""
    url: str | None = None
    """An OpenAI-compatible address, as in http://localhost:8000/v1 (needs prefopt[judges])."""
    prompt: Literal["summarisation", "summarisation_concise", "dialogue"] | None = None
    """What the model behind `url` is asked: which summary is better, which is better and no longer than need be, or
    which answer is more helpful."""
    api_key_env: str | None = Field(None, min_length=1)
    """As in policy_endpoint."""
    concurrency: int = Field(8, ge=1)
    """As in policy_endpoint."""
    timeout_seconds: float = Field(120.0, gt=0, allow_inf_nan=False)
    """As in policy_endpoint."""
    retries: int = Field(4, ge=0)
    """As in policy_endpoint."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _spell_out(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given  # `judge: length`

    @pydantic.field_validator("url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        return None if url is None else _address("evaluation.judge.url", url)

    @pydantic.model_validator(mode="after")
    def _go_together(self) -> JudgeConfig:
        if self.name is None and self.model is None:
            raise ValueError(
                f"evaluation.judge says nobody: it takes a name ({', '.join(JUDGES)}), a reward model (model), or a "
                "served model (url, model and prompt)"
            )
        if self.name is not None and self.name not in JUDGES:
            then = "; a reward model is {model: ...}, a served model {url: ..., model: ..., prompt: ...}"
            raise ValueError(f"evaluation.judge: {unknown_name('judge', self.name, JUDGES, then=then)}")
        if self.name is not None and (self.model is not None or self.url is not None):
            raise ValueError(
                f"evaluation.judge names both {self.name!r} and {self.model or self.url!r}; remove one of them"
            )
        if self.url is None:
            for key in ("prompt", "api_key_env", "concurrency", "timeout_seconds", "retries"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"evaluation.judge.{key} has no effect without evaluation.judge.url")
        elif self.model is None or self.prompt is None:
            missing = "model" if self.model is None else "prompt"
            raise ValueError(
                f"'evaluation.judge.{missing}' is missing; a served model is asked by url, model and prompt"
            )
        return self

    @property
    def endpoint(self) -> EndpointConfig | None:
        """Where a served model is asked; None for judges that run here."""
        if self.url is None or self.model is None:
            return None
        return EndpointConfig(
            url=self.url,
            model=self.model,
            api_key_env=self.api_key_env,
            concurrency=self.concurrency,
            timeout_seconds=self.timeout_seconds,
            retries=self.retries,
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: pydantic.GetJsonSchemaHandler) -> JsonSchemaValue:
        """With the short form, for editors."""
        return {"anyOf": [{"enum": list(JUDGES)}, handler.resolve_ref_schema(handler(core))]}


class EvaluationConfig(Section):
    """What is measured on the held-out rows: by `train` before and after training, and by `evaluate`."""

    every_steps: int | None = Field(None, ge=1)
    """Also evaluate after every so many steps."""
    samples: int = Field(0, ge=0)
    """Held-out prompts to complete greedily before and after training; the texts go into run.json."""
    max_new_tokens: int = Field(64, ge=1)
    """Length limit of what is written, by `train` and by `evaluate`."""
    num_prompts: int = Field(64, ge=0)
    """Held-out prompts to which `evaluate` lets the policy write one answer each, the first ones; 0: none."""
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Of those answers; 0: the likeliest token each time."""
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    """Of those answers: tokens are drawn from the likeliest ones that hold this share of the probability."""
    policy_endpoint: EndpointConfig | None = None
    """A server that holds the trained model and writes those answers; null: they are written here."""
    judge: JudgeConfig | None = None
    """Who compares those answers with others: length, sentiment, gsm8k, or a mapping with model or with url, model and
    prompt; null: nobody."""
    against: Literal["reference", "chosen"] = "reference"
    """What the judge holds them against: what the reference writes, or the data's chosen completions."""

    @pydantic.model_validator(mode="after")
    def _answers(self) -> EvaluationConfig:
        if self.judge is None and self.against != "reference":
            raise ValueError("evaluation.against has no effect without evaluation.judge")
        if self.temperature == 0 and self.top_p != 1:
            raise ValueError("evaluation.top_p has no effect with evaluation.temperature 0; remove one of them")
        if self.num_prompts:
            return self
        for key in ("temperature", "top_p", "policy_endpoint", "judge"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"evaluation.{key} has no effect with evaluation.num_prompts 0")
        return self

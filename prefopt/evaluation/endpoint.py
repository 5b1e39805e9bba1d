"""A served model behind an OpenAI-compatible address."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefopt.config.evaluation import EndpointConfig
from prefopt.errors import ConfigError, ModelError
from prefopt.evaluation.texts import Prompt

if TYPE_CHECKING:
    import openai

_MOST_OF_A_REASON = 200  # characters
_NO_COMPLETION = "answers with something that is no completion", "url must lead to an OpenAI-compatible server"


@dataclass(frozen=True)
class Request:
    """One prompt to be answered.

    Attributes:
        prompt: text, which /completions continues, or a conversation, which /chat/completions answers.
        max_tokens: length limit of the answer.
        temperature: >= 0.
        top_p: in (0, 1].
        seed: of the draw, for servers that take one.
    """

    prompt: Prompt
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    seed: int = 0


class Endpoint:
    """Asks a server, several requests at a time."""

    def __init__(self, settings: EndpointConfig, key: str) -> None:
        """Read the key; ask nothing yet.

        Args:
            settings: where and whom.
            key: the config's key for it, for messages.

        Raises:
            ConfigError: the client is not installed, or the variable of the key is not set.
        """
        try:
            import openai as client
        except ImportError:
            raise ConfigError(
                f"{key} needs the package openai, which is not installed; pip install 'prefopt[judges]'"
            ) from None
        self._secret = "none"  # a server that asks for no key gets one all the same
        if settings.api_key_env is not None:
            self._secret = os.environ.get(settings.api_key_env, "").strip()
            if not self._secret:
                raise ConfigError(
                    f"{key}.api_key_env names the environment variable {settings.api_key_env!r}, which is not set; "
                    "export the key under that name"
                )
            if not (self._secret.isascii() and self._secret.isprintable()):
                raise ConfigError(
                    f"{key}.api_key_env: the environment variable {settings.api_key_env!r} holds characters that no "
                    "key has, a line break perhaps; export the key alone"
                )
        self._openai = client
        self._settings = settings
        self._key = key

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(number of the request, its answer), in the order in which they come.

        Raises:
            ModelError: a request failed for good. No further one is sent; those under way are waited for, and what they
                bring is yielded before.
        """
        settings, stopped = self._settings, threading.Event()
        client = self._openai.OpenAI(
            base_url=settings.url,
            api_key=self._secret,
            timeout=settings.timeout_seconds,
            max_retries=settings.retries,
        )

        def ask(request: Request) -> str | None:
            return None if stopped.is_set() else self._ask(client, request)

        with client, ThreadPoolExecutor(settings.concurrency, thread_name_prefix="prefopt-endpoint") as pool:
            numbers = {pool.submit(ask, request): number for number, request in enumerate(requests)}
            failed: ModelError | None = None
            try:
                for future in as_completed(numbers):
                    try:
                        answer = future.result()
                    except ModelError as error:
                        failed = failed or error
                        stopped.set()
                        continue
                    if answer is not None:
                        yield numbers[future], answer
            finally:
                stopped.set()  # the caller, too, may have had enough
            if failed is not None:
                raise failed

    def _ask(self, client: openai.OpenAI, request: Request) -> str:
        known, settings = self._openai, self._settings
        options: dict[str, Any] = {
            "model": settings.model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        try:
            if isinstance(request.prompt, str):
                found: Any = client.completions.create(prompt=request.prompt, **options)
                answer = found.choices[0].text
            else:
                messages: Any = request.prompt
                found = client.chat.completions.create(messages=messages, **options)
                answer = found.choices[0].message.content
        except known.APITimeoutError:
            what = f"gave no answer within {settings.timeout_seconds:g} s"
            raise self._error(what, "raise timeout_seconds") from None
        except known.APIConnectionError as error:
            reason = error.__cause__ or error
            raise self._error(f"cannot be reached ({self._plain(reason)})", "start the server, or mend url") from None
        except (known.AuthenticationError, known.PermissionDeniedError) as error:
            name = settings.api_key_env
            right = f"set {name} to a valid one" if name else "name the variable that holds the key (api_key_env)"
            raise self._error(f"refuses the key ({error.status_code})", right) from None
        except known.APIStatusError as error:
            raise self._error(f"answers {error.status_code} ({self._plain(error)})", "mend the request") from None
        except (known.OpenAIError, ValueError, AttributeError, TypeError, IndexError):
            raise self._error(*_NO_COMPLETION) from None
        if answer is None:
            return ""  # a model that refuses, or thinks past the limit, may say nothing at all
        if not isinstance(answer, str):
            raise self._error(*_NO_COMPLETION)
        return answer

    def _error(self, what: str, right: str) -> ModelError:
        return ModelError(f"{self._key}: {self._settings.url} with model {self._settings.model!r} {what}; {right}")

    def _plain(self, error: BaseException) -> str:
        text = " ".join(str(error).split())
        if self._settings.api_key_env is not None:  # some servers repeat the key in what they answer
            text = text.replace(self._secret, "***")
        return text[:_MOST_OF_A_REASON] or type(error).__name__

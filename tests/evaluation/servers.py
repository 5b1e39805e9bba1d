"""Servers that speak the OpenAI protocol: the one of transformers, and one that answers as a test says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = tuple[int, bytes]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def transformers_server(model: Path, cache: Path) -> Iterator[str]:
    """`transformers serve` with a model; yields what its paths begin with."""
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            assert process.poll() is None, "transformers serve stopped"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)


class ScriptedServer:
    """Answers each POST with what a function makes of its path, body and headers."""

    def __init__(self, answer: Callable[[str, dict[str, Any], Any], Answer]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.threads = self.most_threads = 0
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.threads += 1
                    outer.most_threads = max(outer.most_threads, outer.threads)
                status, content = answer(self.path, body, self.headers)
                with lock:
                    outer.threads -= 1
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client gave up waiting

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ScriptedServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(text: str | None) -> Answer:
    """What a server sends where it was asked to continue a text."""
    return 200, json.dumps({"id": "1", "object": "text_completion", "choices": [{"index": 0, "text": text}]}).encode()


def chat(text: str | None) -> Answer:
    """What a server sends where it was asked to answer a conversation."""
    message = {"role": "assistant", "content": text}
    return 200, json.dumps(
        {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}
    ).encode()


def refusal(status: int, message: str) -> Answer:
    """What a server sends where it will not answer."""
    return status, json.dumps({"error": {"message": message}}).encode()


def longer_wins(path: str, body: dict[str, Any], _: Any) -> Answer:
    """A judge that prefers the longer of two answers to a dialogue."""
    text = body["messages"][0]["content"]
    shown = text.partition("Answer A:\n")[2].partition("\n\nReply in two lines")[0]
    first, _, second = shown.partition("\n\nAnswer B:\n")
    verdict = "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    return chat(f"One is longer.\nPreferred: {verdict}")

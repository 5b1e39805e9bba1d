"""A server with an OpenAI-compatible address that remembers what it was asked; the model's name says how it behaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """What came in.

    Attributes:
        url: the address.
        bodies: what each request asked.
        keys: the keys they brought.
        most: requests under way at the same time.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    most: int = 0


@contextmanager
def serving() -> Iterator[Asked]:
    """`slow` answers after a while, `flaky` refuses each request the first time, any other model answers at once."""
    asked, lock, under_way = Asked(), threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                again = body in asked.bodies
                asked.bodies.append(body)
                asked.keys.add(self.headers["Authorization"])
                under_way[0] += 1
                asked.most = max(asked.most, under_way[0])
            time.sleep(0.5 if body["model"] == "slow" else 0.05)
            with lock:
                under_way[0] -= 1
            chat = "messages" in body
            said = {"message": {"role": "assistant", "content": "Preferred: A"}} if chat else {"text": " yes"}
            choice = {"index": 0, "finish_reason": "stop", **said}
            reply = {"id": "1", "object": "completion", "created": 0, "model": body["model"], "choices": [choice]}
            self.send_response(500 if body["model"] == "flaky" and not again else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        asked.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield asked
        server.shutdown()
        thread.join()

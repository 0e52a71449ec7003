"""A power switch's HTTP API on loopback, real sockets and all, that behaves as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "canary-token-5f1c"


class PowerServer:
    """`mode`: truth, fail, hang, lie, or the very bytes to answer with. `seen`: method and path of each request."""

    def __init__(self, mode: str | bytes = "truth", status: int = 200) -> None:
        self.mode, self.status = mode, status
        self.power = {"a": "on", "b": "on"}
        self.seen: list[str] = []
        self.bodies: list[bytes] = []
        self.released = threading.Event()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Its URL, while it serves."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            do_POST = do_GET  # noqa: N815  the name in the base class

            def log_message(self, format: str, *words: object) -> None:  # noqa: A002  the name in the base class
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}"
            finally:
                self.released.set()
                server.shutdown()
                thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        self.seen.append(f"{request.command} {request.path}")
        self.bodies.append(request.rfile.read(int(request.headers.get("Content-Length", 0))))
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._reply(request, 401, b"{}")
        if isinstance(self.mode, bytes):
            return self._reply(request, self.status, self.mode)
        if self.mode == "hang":
            self.released.wait(30)
            request.close_connection = True
            return None
        _, _, host, *verb = request.path.split("/")
        if self.mode == "fail" or host not in self.power:
            return self._reply(request, 500 if self.mode == "fail" else 404, b'{"error": "no"}')
        if verb:
            self.power[host] = verb[0]
        return self._reply(request, 200, json.dumps({"host": host, "power": self.power[host]}).encode())

    def _reply(self, request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        try:
            request.wfile.write(body)
        except OSError:  # the client has had enough of it
            request.close_connection = True

"""A webhook's receiver and a mail server on loopback, real sockets and all, that behave as they are told."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hyops.model.notify import Notice
from hyops.ports.sink import Message
from hyops.testing.clock import EPOCH

PASSWORD = "canary-mail-2c9f"
NOTICE = Notice(
    notice_id="notice-waiting-1",
    event="waiting",
    about="dispatch-1",
    at=EPOCH,
    title="waits <!channel> & <https://evil.example|approve>",
    lines=["digest  sha256:00"],
    command="hyops approval grant dispatch-1 --key YOUR_KEY",
)
MESSAGE = Message("delivery-1", (NOTICE,))


def private(path: Path, text: str) -> Path:
    """A file of its owner's alone."""
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


class Receiver:
    """`modes`: what the next requests meet, the last one for all after it: ok, hang, cut, redirect or a status."""

    def __init__(self, *modes: str) -> None:
        self.modes = list(modes) or ["ok"]
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.retry_after: str | None = None
        self._released = threading.Event()
        self._url = ""

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Its URL, while it serves."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._answer(self)

            do_GET = do_POST  # noqa: N815  the name in the base class

            def log_message(self, format: str, *words: object) -> None:  # noqa: A002  the name in the base class
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            self._url = f"http://127.0.0.1:{server.server_address[1]}"
            try:
                yield f"{self._url}/hook-canary-77aa"
            finally:
                self._released.set()
                server.shutdown()
                thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        self.seen.append((request.path, dict(request.headers), body))
        mode = self.modes.pop(0) if len(self.modes) > 1 else self.modes[0]
        if mode == "hang":
            self._released.wait()
        elif mode == "cut":
            request.connection.shutdown(socket.SHUT_RDWR)
        else:
            request.send_response({"ok": 200, "redirect": 302}.get(mode) or int(mode))
            if mode == "redirect":
                request.send_header("Location", f"{self._url}/elsewhere")
            if self.retry_after is not None:
                request.send_header("Retry-After", self.retry_after)
            request.send_header("Content-Length", "0")
            request.end_headers()


class MailServer:
    """SMTP that takes mail from whom it lets in. `fault`: hang, reject, greylist, no-tls, cut, or None."""

    def __init__(self, context: ssl.SSLContext | None, *, tls: str = "starttls", fault: str | None = None) -> None:
        self.context, self.tls, self.fault = context, tls, fault
        self.mails: list[str] = []
        self.to: list[str] = []
        self.clear: list[str] = []
        """Every line that came before the connection was private."""
        self.let_in = False
        self._released = threading.Event()

    @contextmanager
    def serve(self) -> Iterator[int]:
        """Its port, while it serves."""
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, ValueError):
                    outer._talk(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads, allow_reuse_address = True, True

        with Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield server.server_address[1]
            finally:
                self._released.set()
                server.shutdown()
                thread.join()

    def _talk(self, connection: socket.socket) -> None:
        with ExitStack() as closing:
            lines = self._private(connection, closing) if self.tls == "tls" else connection.makefile("rwb", buffering=0)
            closing.callback(lines.close)
            if self.fault == "hang":
                self._released.wait()
                return
            lines.write(b"554 no\r\n" if self.fault == "reject" else b"220 mail\r\n")
            private = self.tls == "tls"
            while line := _line(lines):
                if not private:
                    self.clear.append(line)
                verb = line.split()[0].upper()
                if verb == "STARTTLS" and self.context is not None:
                    lines.write(b"220 go\r\n")
                    lines, private = self._private(connection, closing), True
                    closing.callback(lines.close)
                    continue
                if verb == "DATA":
                    if self.fault == "cut":
                        return
                    lines.write(b"354 go\r\n")
                    self.mails.append("\n".join(iter(partial(_line, lines, strip=False), ".")))
                lines.write(self._reply(verb, line, private).encode())
                if verb == "QUIT":
                    return

    def _private(self, connection: socket.socket, closing: ExitStack) -> Any:
        assert self.context is not None
        inside = closing.enter_context(self.context.wrap_socket(connection, server_side=True))
        return inside.makefile("rwb", buffering=0)

    def _reply(self, verb: str, line: str, private: bool) -> str:
        if verb == "EHLO":
            offers = ["AUTH PLAIN"] if private else ["STARTTLS"] if self.fault != "no-tls" and self.context else []
            return "".join(f"250-{offer}\r\n" for offer in ["mail", *offers]) + "250 SIZE 1000000\r\n"
        if verb == "AUTH":
            self.let_in = b64decode(line.split()[2]).split(b"\0")[1:] == [b"hyops", PASSWORD.encode()]
            return "235 in\r\n" if self.let_in else f"535 wrong: {line}\r\n"
        if verb == "RCPT":
            self.to.append(line)
            return "451 later\r\n" if self.fault == "greylist" else "250 ok\r\n"
        return "221 bye\r\n" if verb == "QUIT" else "250 ok\r\n"


def _line(lines: Any, *, strip: bool = True) -> str:
    data = lines.readline().decode()
    return data.strip() if strip else data.removesuffix("\r\n")

"""The power switch: an HTTP service on the lab's switch that really cuts and gives power, unless told to misbehave.

    GET  /hosts/NAME       {"host": NAME, "power": "on" | "off"}
    POST /hosts/NAME/off   cut the power; the reply comes when the kernel has proven it
    POST /hosts/NAME/on    boot; the reply comes when the machine has booted

Every request needs `Authorization: Bearer TOKEN`; the token is the lab's secret `power`. Modes, for tests of those who
trust a switch: `fail` answers 500, `hang` never answers, `lie` reports what was asked for and does nothing.
"""

from __future__ import annotations

import hmac
import json
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from hyops_lab import daemon, network
from hyops_lab.errors import LabError
from hyops_lab.hosts import HOSTS, POWER_ADDRESS

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

PORT = 8081
MODES = ("truth", "fail", "hang", "lie")
HANG_S = 3600.0
URL = f"http://{POWER_ADDRESS}:{PORT}"


def start(lab: Lab) -> None:
    """Start the service; it accepts connections when this returns."""
    lab.secret("power")
    with network.socket_in(lab.names.switch) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((POWER_ADDRESS, PORT))
        listener.listen(64)
        argv = [sys.executable, "-m", "hyops_lab.power", lab.names.lab_id, str(listener.fileno())]
        daemon.start(lab.cgroup / "power", argv, lab.names.state / "power.log", pass_fds=[listener.fileno()])


def set_mode(lab: Lab, mode: str) -> None:
    """Tell the service how to behave from the next request on."""
    if mode not in MODES:
        raise LabError(f"no power switch mode {mode!r}; modes: {', '.join(MODES)}")
    (lab.names.state / "power-mode").write_text(mode)


class Switch:
    """The service's answers."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._lies: dict[str, str] = {}
        self._one_at_a_time = threading.Lock()
        self.token = lab.secret("power")

    def mode(self) -> str:
        """How to behave now."""
        file = self._lab.names.state / "power-mode"
        return file.read_text() if file.exists() else MODES[0]

    def power(self, host: str) -> str:
        """What to say about a host's power."""
        truth = "on" if self._lab.machine(host).is_on() else "off"
        return self._lies.get(host, truth) if self.mode() == "lie" else truth

    def switch(self, host: str, power: str) -> None:
        """Cut or give power, or just say so."""
        if self.mode() == "lie":
            self._lies[host] = power
            return
        with self._one_at_a_time:
            self._lies.pop(host, None)
            if power == "off":
                self._lab.kill(host)
            else:
                self._lab.power_on(host)


def serve(lab: Lab, listener: socket.socket) -> None:
    """Answer on `listener` until killed."""
    switch = Switch(lab)

    class Handler(BaseHTTPRequestHandler):
        """One request."""

        def do_GET(self) -> None:
            """Tell a host's power."""
            self._answer(re.fullmatch(r"/hosts/([a-z-]+)", self.path))

        def do_POST(self) -> None:
            """Change a host's power."""
            self._answer(re.fullmatch(r"/hosts/([a-z-]+)/(on|off)", self.path))

        def _answer(self, match: re.Match[str] | None) -> None:
            given = self.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {switch.token}".encode()):
                self._reply(401, {"error": "wrong or no token"})
            elif match is None or match[1] not in HOSTS:
                self._reply(404, {"error": "no such host"})
            elif switch.mode() == "hang":
                time.sleep(HANG_S)
            elif switch.mode() == "fail":
                self._reply(500, {"error": "the switch failed"})
            else:
                try:
                    if match.lastindex == 2:
                        switch.switch(match[1], match[2])
                    self._reply(200, {"host": match[1], "power": switch.power(match[1])})
                except LabError as error:
                    self._reply(500, {"error": str(error)})

        def _reply(self, status: int, body: dict[str, str]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer((POWER_ADDRESS, PORT), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.serve_forever()


if __name__ == "__main__":
    from hyops_lab.lab import Lab

    serve(Lab(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))

"""The agent of a runner that nobody can dial: it asks its desk, and pipes what it hears to `runner-serve` (RUN-11).

It knows no verb and keeps no state. All that it ever runs is the one command of its own configuration, with the
environment of a login: whatever arrives is judged by that server's admission, as over SSH. It holds no credentials but
its certificate. An opening that arrives twice is known by its number, a byte by its place, so nothing acts twice; a
broken connection is made again and goes on where it was, until the desk says that it has forgotten.
Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from hyops.errors import HyopsError, PrerequisiteError
from hyops.model import pull
from hyops.runner.pull_config import DEFAULT, PullConfig
from hyops.runner.pull_http import Asking, Reply, UnreachableError

ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "XDG_RUNTIME_DIR")
RETRY_FIRST_S = 0.1
OPEN_MAX = 2 * pull.CHANNELS_MAX  # the desk keeps to half, and counts no server that is still ending
BUSY = 75  # EX_TEMPFAIL
NOT_STARTED = 126


class Agent:
    """One process, one desk."""

    def __init__(self, config: PullConfig) -> None:
        self._config = config
        self.instance = secrets.token_hex(16)
        self.http = Asking(config, self.instance)
        self.channels: dict[int, Channel] = {}
        self._desk, self._after, self._connected = "", 0, False

    def run(self) -> NoReturn:
        """Ask until another agent has taken this one's place. Servers of an agent that ends see their input end.

        Raises:
            PrerequisiteError: displaced, or the desk speaks another protocol.
        """
        pause_s = RETRY_FIRST_S
        while True:
            try:
                reply = self.http.ask("wait", self._desk, at=self._after)
                self._heed(reply)
            except (UnreachableError, ValueError) as exc:
                self._say_once(connected=False, why=str(exc))
                time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load, guards nothing
                pause_s = min(2 * pause_s, self._config.reconnect_max_s)
                continue
            self._say_once(connected=True)
            pause_s = RETRY_FIRST_S

    def _heed(self, reply: Reply) -> None:
        """Open what is to be opened, each number once."""
        if reply.status == 409:
            raise PrerequisiteError(
                "another agent with this runner's certificate has taken over",
                hint="only one may run: end the other one, or renew the certificate if nobody knows of it",
            )
        if reply.status == 404:
            raise PrerequisiteError(f"the desk does not know {pull.PATH}", hint="run the same hyops on both sides")
        if reply.status != 200:
            raise ValueError(f"the desk answers {reply.status}: {reply.text()}")
        desk, numbers = pull.opened(reply.body)
        if desk != self._desk:
            for channel in list(self.channels.values()):
                channel.leave()
            self._desk, self._after = desk, 0
        for number in numbers:
            if number > self._after:
                self._after = number
                self._open(number)

    def _open(self, number: int) -> None:
        if len(self.channels) >= OPEN_MAX:
            say(f"channel {number} is refused: {OPEN_MAX} are open")
            with contextlib.suppress(UnreachableError):
                self.http.ask("out", self._desk, at=0, channel=number, end=BUSY)
            return
        channel = self.channels[number] = Channel(self, self._desk, number)
        channel.start(self._config.serve_command)

    def _say_once(self, *, connected: bool, why: str = "") -> None:
        if connected != self._connected or why:
            say(f"connected to the desk at {self._config.host}" if connected else f"no desk: {why}")
        self._connected = connected


class Channel:
    """One `runner-serve` with two threads: what it is to hear, and what it says."""

    def __init__(self, agent: Agent, desk: str, number: int) -> None:
        self._agent, self._desk, self._number = agent, desk, number
        self._process: subprocess.Popen[bytes] | None = None
        self._gone = threading.Event()

    def start(self, command: list[str]) -> None:
        """Start the server; one that cannot be started has ended with a status that says so."""
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={key: os.environ[key] for key in ENVIRONMENT if key in os.environ},
                bufsize=0,
                start_new_session=True,
            )
        except OSError as exc:
            say(f"{command[0]}: {exc.strerror}")
            threading.Thread(target=self._refused, daemon=True).start()
            return
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # over the user's limit: smaller bites then
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, pull.CHUNK_MAX)
        threading.Thread(target=self._hear, args=(self._process,), daemon=True).start()
        threading.Thread(target=self._speak, args=(self._process,), daemon=True).start()

    def leave(self) -> None:
        """The link is over: the server sees its input end, and ends by itself once it has answered."""
        self._gone.set()

    def _refused(self) -> None:
        self._give(0, b"", NOT_STARTED)
        self._agent.channels.pop(self._number, None)

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        at, last = 0, False
        assert process.stdin is not None
        with contextlib.suppress(OSError), process.stdin as sink:  # it no longer listens: `_speak` says how it ended
            while not last and (reply := self._asked("in", at)) is not None:
                view = memoryview(reply.body)
                while view:
                    view = view[sink.write(view) :]
                at += len(reply.body)
                last = reply.headers.get(pull.END) == "1"

    def _speak(self, process: subprocess.Popen[bytes]) -> None:
        at = 0
        assert process.stdout is not None
        with process.stdout as source:
            while data := source.read(pull.CHUNK_MAX):
                if not self._give(at, data, None):
                    break
                at += len(data)
        status = process.wait()
        self._give(at, b"", status if 0 <= status <= 255 else 255)
        self._gone.set()
        self._agent.channels.pop(self._number, None)

    def _give(self, at: int, data: bytes, end: int | None) -> bool:
        """Whether the desk has all of it."""
        wanted = at
        while (reply := self._asked("out", wanted, data[wanted - at :], end)) is not None:
            wanted = pull.number(reply.headers.get(pull.AT))
            if not at <= wanted <= at + len(data):
                return False
            if wanted == at + len(data):
                return True
        return False

    def _asked(self, verb: str, at: int, body: bytes = b"", end: int | None = None) -> Reply | None:
        """The desk's answer, whatever connection it takes; None when the link is over.

        A desk that could not be reached for as long as an answer may take has forgotten the link by then.
        """
        pause_s, reached = RETRY_FIRST_S, time.monotonic()
        while not self._gone.is_set():
            try:
                reply = self._agent.http.ask(verb, self._desk, at=at, channel=self._number, body=body, end=end)
            except UnreachableError:
                if time.monotonic() - reached > self._agent.http.limit_s:
                    self._gone.set()
                self._gone.wait(pause_s)  # for the connection to come back, as the agent's own does
                pause_s = min(2 * pause_s, self._agent.http.limit_s)
                continue
            if reply.status == 200:
                return reply
            self._gone.set()
        return None


def say(line: str) -> None:
    """One line to the journal."""
    print(f"hyops: runner-pull: {line}", file=sys.stderr, flush=True)  # noqa: T201  # the agent's log


def _end(*_: object) -> None:
    raise SystemExit(0)


def main(words: list[str]) -> int:
    """`hyops runner-pull [--config FILE]`: until SIGTERM. What ends with 11 or 12 waits for a person."""
    if words and not (len(words) == 2 and words[0] == "--config"):
        say(f"unknown words {' '.join(words)!r}")
        return 2
    try:
        agent = Agent(PullConfig.load(Path(words[1]) if words else DEFAULT))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        agent.run()
    except HyopsError as exc:
        say(f"{exc.message}; next: {exc.hint}")
        return exc.exit_code

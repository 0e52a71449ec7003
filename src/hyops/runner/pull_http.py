"""The agent's requests to its desk over a few kept connections, with a limit on every answer. Standard library only."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from hyops.model import pull
from hyops.runner.pull_config import PullConfig

KEPT_MAX = 2 * pull.CHANNELS_MAX + 1


class UnreachableError(Exception):
    """No answer: nobody knows whether the desk has the request. It may be sent again as it was."""


@dataclass(frozen=True)
class Reply:
    """What the desk answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """The body, for people."""
        return self.body[:200].decode(errors="replace")


class Asking:
    """Requests of one agent. Any thread may ask."""

    def __init__(self, config: PullConfig, instance: str) -> None:
        self._config, self._instance, self._context = config, instance, config.context()
        self.limit_s = config.answer_limit_s
        self._kept: list[http.client.HTTPSConnection] = []
        self._guard = threading.Lock()

    def ask(
        self, verb: str, desk: str, *, at: int, channel: int | None = None, body: bytes = b"", end: int | None = None
    ) -> Reply:
        """One request and its answer.

        Raises:
            UnreachableError: no connection, a desk that the CA does not vouch for, or no answer in time.
        """
        headers = {pull.INSTANCE: self._instance, pull.AT: str(at)}
        headers |= {pull.DESK: desk} if desk else {}
        headers |= {pull.CHANNEL: str(channel)} if channel is not None else {}
        headers |= {pull.END: str(end)} if end is not None else {}
        link, answered = self._taken(), False
        try:
            link.request("POST", pull.PATH + verb, body, headers)
            response = link.getresponse()
            most = pull.CHUNK_MAX if verb == "in" else pull.REPLY_MAX
            data = response.read(most + 1)
            if len(data) > most:
                raise UnreachableError(f"an answer over {most} bytes")
            answered = True
        except (OSError, http.client.HTTPException, ValueError) as exc:
            self.close()  # the kept ones go the same way, and would fail one by one
            why = exc.verify_message if isinstance(exc, ssl.SSLCertVerificationError) else str(exc)
            if isinstance(exc, ConnectionResetError):
                why += "; a desk also hangs up without a word on a certificate that is not its CA's, or not valid now"
            raise UnreachableError(f"{type(exc).__name__}: {why}") from exc
        finally:
            if not answered:
                link.close()
        told = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close:
            link.close()
        else:
            self._keep(link)
        return Reply(response.status, told, data)

    def close(self) -> None:
        """Every kept connection; the next request makes a new one."""
        with self._guard:
            kept, self._kept = self._kept, []
        for link in kept:
            link.close()

    def _taken(self) -> http.client.HTTPSConnection:
        with self._guard:
            if self._kept:
                return self._kept.pop()
        config = self._config
        return http.client.HTTPSConnection(config.host, config.port, context=self._context, timeout=self.limit_s)

    def _keep(self, link: http.client.HTTPSConnection) -> None:
        with self._guard:
            if len(self._kept) < KEPT_MAX:
                self._kept.append(link)
                return
        link.close()

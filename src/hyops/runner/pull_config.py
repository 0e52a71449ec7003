"""The agent's own configuration: where its desk is, and who it is there, and no more. Standard library only."""

from __future__ import annotations

import json
import re
import ssl
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hyops.errors import ConfigError

DEFAULT = Path("/etc/hyops/pull.json")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9a-fA-F:]{2,39}")
LIMIT_S = (0.5, 300.0)


@dataclass(frozen=True)
class PullConfig:
    """`/etc/hyops/pull.json`. `serve_command` is all that the agent ever runs; `answer_limit_s` is above the desk's
    `hold_s`: a desk that is silent for longer is gone.
    """

    host: str
    port: int
    ca_file: Path
    certificate: Path
    key: Path
    serve_command: list[str] = field(default_factory=lambda: [sys.argv[0], "runner-serve"])
    answer_limit_s: float = 45.0
    reconnect_max_s: float = 15.0

    @classmethod
    def load(cls, path: Path) -> PullConfig:
        """Read the file.

        Raises:
            ConfigError: names the file and every missing, unknown or mistyped key.
        """
        try:
            value = json.loads(path.read_bytes())
        except OSError as exc:
            raise ConfigError(f"{path}: {exc.strerror}") from exc
        except (ValueError, RecursionError) as exc:
            raise ConfigError(f"{path}: {exc}") from exc
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: not an object")
        known = [f.name for f in fields(cls)]
        faults = [f"unknown key {key!r}" for key in value if key not in known]
        faults += [f"key {name!r} is missing" for name in known[:5] if name not in value]
        faults += [f"{key}: {fault}" for key, given in value.items() if (fault := _fault(key, given))]
        if faults:
            raise ConfigError(f"{path}: " + "; ".join(faults))
        paths = ("ca_file", "certificate", "key")
        parsed: dict[str, Any] = {key: Path(given) if key in paths else given for key, given in value.items()}
        return cls(**parsed)

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 to the desk that the pinned CA vouches for, under the name that is dialled, and to nobody else.

        Raises:
            ConfigError: a file is missing or does not fit, or the key may be read by others.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks chain and name; knows no CA of the host's
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            if self.key.stat().st_mode & 0o077:
                raise ConfigError(f"{self.key} is open to others; make it 0600")
            context.load_verify_locations(cafile=self.ca_file)
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"{self.ca_file}, {self.certificate}, {self.key}: {exc}") from exc
        return context


def _fault(key: str, given: object) -> str | None:
    if key == "host":
        return None if isinstance(given, str) and HOST.fullmatch(given) else "a host name or address is needed"
    if key == "port":
        return None if type(given) is int and 0 < given < 65536 else "a port is needed"
    if key in ("ca_file", "certificate", "key"):
        return None if isinstance(given, str) and given.startswith("/") else "an absolute path is needed"
    if key == "serve_command":
        good = isinstance(given, list) and given and all(isinstance(word, str) and word for word in given)
        return None if good else "a list of words is needed"
    if key in ("answer_limit_s", "reconnect_max_s"):
        good = type(given) in (int, float) and LIMIT_S[0] <= given <= LIMIT_S[1]  # type: ignore[operator]
        return None if good else f"{LIMIT_S[0]:g} to {LIMIT_S[1]:g} seconds"
    return None

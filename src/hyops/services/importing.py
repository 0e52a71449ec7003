"""Foreign files become ours: converted, read strictly as what they are to be, and told with every loss (CAT-5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyops.control.foreign.decision import decision_body
from hyops.control.foreign.document import Foreign, Lossy
from hyops.control.foreign.routes import NotRun, routes_body
from hyops.control.foreign.state import state_body
from hyops.errors import ConfigError, RecordError
from hyops.model.base import Part
from hyops.model.decision import Decision
from hyops.model.module_state import ModuleState
from hyops.model.routes import Routes


@dataclass(frozen=True)
class Imported:
    """What a foreign file became, and what it lost on the way."""

    made: Part
    lossy: tuple[Lossy, ...]

    def body(self) -> dict[str, Any]:
        """For programs."""
        return {"made": self.made.body(), "lossy": [point.body() for point in self.lossy]}


def import_decision(given: Foreign, *, service: str | None = None) -> Imported:
    """A decision record of the old loop; ConfigError when it cannot be said here."""
    return _made(given, decision_body(given, service=service), Decision)


def import_routes(
    given: Foreign,
    *,
    env: str | None = None,
    runners: Mapping[str, str] | None = None,
    not_run: NotRun = lambda module_ref: None,
) -> Imported:
    """The routes of an old dispatcher; ConfigError when one of them may not be."""
    return _made(given, routes_body(given, env=env, runners=runners, not_run=not_run), Routes)


def import_state(given: Foreign) -> Imported:
    """The state of a module; ConfigError when it does not say of which, and when."""
    return _made(given, state_body(given), ModuleState)


def _made(given: Foreign, body: dict[str, Any], kind: type[Part]) -> Imported:
    try:
        made = kind.of(body, source=given.source)
    except RecordError as exc:
        raise ConfigError(exc.message, hint="mend that in the old file, or write ours by hand") from exc
    points = sorted(given.lossy, key=lambda point: (point.line == 0, point.line, point.key))
    return Imported(made, tuple(points))

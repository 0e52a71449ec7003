"""What `hyops policy` works on: files of people, with the line of each key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from hyops.control.dispatch import PlanFor
    from hyops.control.proof.rules import Where
    from hyops.model.policy import ServicePolicy
    from hyops.model.routes import Routes
    from hyops.model.signal import Sample
    from hyops.ports.documents import Node

SINCE_S = 30 * 86400.0  # how far back a Prometheus is asked when nobody says


@dataclass(frozen=True)
class Lines:
    """Where the keys of a file stand."""

    path: str
    root: Node | None

    def of(self, where: Where) -> int:
        """The line of a key, or of the nearest key above it that is there."""
        node, line = self.root, 1
        for part in where:
            below = None
            if node is not None and isinstance(part, str):
                below = node.get(part)
            elif node is not None and node.items is not None and isinstance(part, int) and part < len(node.items):
                below = node.items[part]
            if below is None:
                return line
            node, line = below, below.line
        return line


def policy_file(path: Path) -> tuple[ServicePolicy, Lines]:
    """One service's policy.

    Raises:
        ConfigError: it cannot be read; or one line per fault, `file:line: key: what is wrong`.
    """
    from hyops.adapters.yaml_files import parse_yaml
    from hyops.model.policy import ServicePolicy

    data = _bytes(path, "name a policy's file")
    return parse_yaml(data, ServicePolicy, source=str(path)), _lines(path, data)


def routes_file(path: Path) -> tuple[Routes, Lines]:
    """The dispatcher's routes; raises as `policy_file`."""
    from hyops.adapters.yaml_files import parse_yaml
    from hyops.model.routes import Routes

    data = _bytes(path, "name the routes' file with --routes")
    return parse_yaml(data, Routes, source=str(path)), _lines(path, data)


def route_planner(routes: Routes, catalogs: Sequence[Path] = ()) -> PlanFor:
    """The dispatcher's planner, with no runtime root: what a plan's files say is not looked at."""
    from hyops.compose_loop import planned_by

    return planned_by(catalogs, routes, lambda steps: {})


@dataclass(frozen=True)
class Recording:
    """Where recorded samples come from; several are taken together. `queries`: (SIGNAL, VANTAGE or None, PROMQL)."""

    inputs: tuple[Path, ...] = ()
    records: tuple[Path, ...] = ()
    prometheus: str | None = None
    queries: tuple[tuple[str, str | None, str], ...] = ()


def recorded(policy: ServicePolicy, source: Recording, since_s: float | None, until: datetime | None) -> list[Sample]:
    """The samples of the policy's signals, in order; the last `since_s` seconds of them.

    Raises:
        ConfigError: a file cannot be read, a query is of no signal, or nothing was recorded.
        TargetError: Prometheus gave no usable answer; nothing was replayed.
    """
    from hyops.adapters.samples_files import from_lines, from_records
    from hyops.control.replay import ordered, time_of
    from hyops.errors import ConfigError

    samples = [one for path in source.inputs for one in from_lines(path)]
    samples += [one for path in source.records for one in from_records(path)]
    if source.prometheus is not None:
        samples += _from_prometheus(policy, source, since_s or SINCE_S, until)
    names = {signal.name for signal in policy.signals}
    found = ordered(one for one in samples if one.signal in names)
    if until is not None:
        found = [one for one in found if one.taken_at <= until]
    if found and since_s is not None:
        found = [one for one in found if time_of(one) >= time_of(found[-1]) - since_s]
    if not found:
        hint = "name a recording of this service's signals with --inputs, --records or --prometheus"
        raise ConfigError("nothing was recorded of " + ", ".join(sorted(names)), hint=hint)
    return found


def _from_prometheus(
    policy: ServicePolicy, source: Recording, since_s: float, until: datetime | None
) -> Iterator[Sample]:
    from datetime import UTC, datetime

    from hyops.adapters.prometheus_range import Asked, PrometheusRange
    from hyops.control.proof.situation import STAND_IN
    from hyops.errors import ConfigError

    signals = {signal.name: signal for signal in policy.signals}
    asked = [
        Asked(signal, STAND_IN, signal.query or "")
        for signal in policy.signals
        if signal.source == "prometheus" and signal.name not in {name for name, *_ in source.queries}
    ]
    for name, vantage, query in source.queries:
        if name not in signals or (vantage is not None and vantage not in signals[name].vantages):
            raise ConfigError(f"--query {name}{f'@{vantage}' if vantage else ''}: no such signal of {policy.service}")
        vantages = [vantage] if vantage else signals[name].vantages or [STAND_IN]
        asked += [Asked(signals[name], one, query.replace("$vantage", one)) for one in vantages]
    target = next(member.host for member in policy.members if member.host != policy.preferred)
    ended_s = round((until or datetime.now(UTC)).timestamp())
    server = PrometheusRange(source.prometheus or "")
    try:
        for one in asked:
            about = policy.preferred if one.signal.about == "primary" else target
            query = one.query
            for word in ("$host", "$primary", "$target"):
                query = query.replace(word, about)
            yield from server.samples(Asked(one.signal, one.vantage, query), ended_s - since_s, ended_s)
    finally:
        server.close()


def _bytes(path: Path, hint: str) -> bytes:
    from hyops.errors import ConfigError

    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}", hint=hint) from exc


def _lines(path: Path, data: bytes) -> Lines:
    """The second reading of bytes that were a good document in the first."""
    from hyops.adapters.documents_files import parse_documents

    documents = parse_documents(data.decode("utf-8", "replace"), source=str(path))
    return Lines(str(path), documents[0].root if documents else None)

"""What the answers of a runner may say, and how it is shown; anything else is no answer (RUN-11, INV-5).

Each function raises RunnerUnreachableError for a shape that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyops.errors import RunnerUnreachableError
from hyops.model import wire, words
from hyops.ports.takeover import HeldOrder
from hyops.ports.transport import ClockSeen, RunEvent, RunnerHello, RunStatus

NUMBER_MAX = 2**63


def parts(header: Mapping[str, Any], payload: bytes, runner_ref: str) -> tuple[bytes, bytes, bytes]:
    """Result, journal and log of a return."""
    first, second = header.get("result_bytes"), header.get("journal_bytes")
    if type(first) is not int or type(second) is not int or min(first, second) < 0 or first + second > len(payload):
        raise RunnerUnreachableError(f"{runner_ref}: the return's parts do not fit its size")
    return payload[:first], payload[first : first + second], payload[first + second :]


def hello(header: Mapping[str, Any], runner_ref: str, here_s: float, half_s: float) -> RunnerHello:
    """What a runner said. `here_s`: our time (seconds since 1970) in the middle of the round trip, twice `half_s`."""
    texts, numbers = ("runner_ref", "site", "hyops_version"), ("protocol_min", "protocol_max", "disk_free_bytes")
    good = {name: type(header.get(name)) is str for name in texts}
    good |= {name: type(header.get(name)) is int and 0 <= header[name] < NUMBER_MAX for name in numbers}
    good["open_runs"] = isinstance(header.get("open_runs"), list)
    good["time_s"] = type(time_s := header.get("time_s", 0.0)) in (int, float) and 0 <= time_s < NUMBER_MAX
    if bad := [name for name, fits in good.items() if not fits]:
        raise RunnerUnreachableError(f"{runner_ref} says hello with {bad[0]} {str(header.get(bad[0]))[:60]!r}")
    known: dict[str, Any] = {name: header[name] for name in numbers}
    known |= {name: words.shown(header[name]) for name in texts}
    ntp = header.get("ntp")
    synced = ntp if isinstance(ntp, bool) else None
    clock = ClockSeen(round(time_s - here_s, 6), round(half_s, 6), synced) if "time_s" in header else None
    return RunnerHello(**known, open_runs=tuple(words.shown(run_id) for run_id in header["open_runs"]), clock=clock)


def listed(header: Mapping[str, Any], name: str) -> list[Any]:
    """The list of that name."""
    value = header.get(name)
    if not isinstance(value, list):
        what = f"{name} that is no list" if name in header else f"no {name}"
        raise RunnerUnreachableError(f"the runner answered with {what}")
    return value


def event(value: Any) -> RunEvent:
    """An event as it may be shown; what is proof of the run comes by `collect`, byte for byte."""
    try:
        stream, offset, body = value["stream"], value["offset"], value["body"]
    except (KeyError, TypeError) as exc:
        raise RunnerUnreachableError("the runner sent an event without stream, offset or body") from exc
    if stream not in ("journal", "log", "end") or type(offset) is not int or not isinstance(body, dict):
        raise RunnerUnreachableError(f"the runner sent an event of the unknown stream {stream!r}")
    try:
        return RunEvent(stream, offset, words.shown_in(body, wire.HEADER_MAX))
    except RecursionError as exc:
        raise RunnerUnreachableError("the runner sent an event that is nested too deep") from exc


def status(value: Any) -> RunStatus:
    """A run's status as it may be shown."""
    states = ("absent", "staged", "running", "interrupted", "finished")
    if not isinstance(value, dict) or value.get("state") not in states or type(value.get("epoch")) is not int:
        raise RunnerUnreachableError("the runner sent a status of an unknown shape")
    outcome, facts = value.get("outcome"), value.get("facts", {})
    return RunStatus(
        words.shown(value.get("run_id")),
        value["state"],
        value["epoch"],
        words.shown(outcome) if isinstance(outcome, str) else None,
        {words.shown(k): _fact(v) for k, v in facts.items()} if isinstance(facts, dict) else {},
    )


def order(value: Any) -> HeldOrder:
    """A standby order that lies on a runner, as it says."""
    if not isinstance(value, dict) or not isinstance(value.get("order_id"), str):
        raise RunnerUnreachableError("the runner told of an order of an unknown shape")
    digest, stored_s = value.get("digest"), value.get("stored_s")
    known, at_s = digest if isinstance(digest, str) else None, stored_s if isinstance(stored_s, int | float) else 0
    return HeldOrder(words.shown(value["order_id"]), known, float(at_s))


def _fact(value: Any) -> Any:
    """Numbers as they are; of anything else what a terminal may show."""
    return value if value is None or isinstance(value, int | float) else words.shown(value)

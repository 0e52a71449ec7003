"""What Alertmanager has said: which alerts fire, since when, and when that was last said (webhook, version 4).

A notification tells only of the alerts in it. That an alert is repeated keeps it fresh and changes nothing else; an
older episode, the firing of an episode that is known to have ended, and what is dated in the future are passed over.
Silence is not well: without a fresh word about an alert its state is unknown, unless a dead man's alert, which always
fires, shows that words arrive. After a start nothing is known until it is said again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hyops.adapters.prometheus import meant
from hyops.adapters.sampling import Look
from hyops.errors import RecordError
from hyops.ports.signals import Watched

VERSION = "4"
FUTURE_MAX = timedelta(seconds=5)  # Alertmanager's clock may be ahead of ours by so much
ALERTS_MAX = 10_000
NOT_YET = datetime.fromisoformat("0001-01-01T00:00:00+00:00")  # what Alertmanager writes where an alert has no end

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Alert:
    """One alert, as it was last spoken of. `heard_s` is on our monotonic clock."""

    labels: dict[str, str]
    firing: bool
    starts_at: datetime
    ends_at: datetime | None
    heard_s: float


class Alerts:
    """All alerts, by their labels."""

    def __init__(self) -> None:
        self._alerts: dict[Labels, Alert] = {}

    def take(self, body: bytes, *, now: datetime, now_s: float) -> list[str]:
        """Take a notification in, whole or not at all; the faults of single alerts in it that were passed over.

        Raises:
            RecordError: it is no notification of this version; nothing has changed.
        """
        alerts = [_alert(value, now_s) for value in _alerts_in(body)]
        passed_over = []
        for alert in alerts:
            key = tuple(sorted(alert.labels.items()))
            why = _unusable(alert, self._alerts.get(key), now)
            if why is None:
                self._alerts.pop(key, None)  # the newest stands last
                self._alerts[key] = alert
            else:
                passed_over.append(f"{alert.labels.get('alertname', '?')}: {why}")
        self._forget_most()
        return passed_over

    def look(self, watched: Watched, now_s: float) -> Look:
        """1 when the alert does not fire, 0 when it does, None when that is not known now."""
        signal = watched.signal
        ours = [a for a in self._alerts.values() if _matches(a, signal.select or {}, watched)]
        fresh = [a for a in ours if now_s - a.heard_s <= signal.max_age_s]
        firing = [alert for alert in fresh if alert.firing]
        if firing:
            first = min(firing, key=lambda alert: alert.starts_at)
            return Look(0.0, f"{first.labels.get('alertname')} fires since {first.starts_at.isoformat()}")
        if any(alert.firing for alert in ours):
            return Look(None, f"it fired, and Alertmanager has been silent about it for over {signal.max_age_s:g} s")
        if signal.dead_man is not None:
            if any(a.firing and now_s - a.heard_s <= signal.max_age_s for a in self._dead_men(watched)):
                return Look(1.0, "no such alert fires, and the dead man's alert is repeated")
            return Look(None, f"the dead man's alert was not repeated for {signal.max_age_s:g} s: nothing can be heard")
        if fresh:
            last = max(fresh, key=lambda alert: alert.heard_s)
            return Look(1.0, f"resolved at {(last.ends_at or last.starts_at).isoformat()}")
        return Look(None, "Alertmanager has said nothing of it, and no dead_man is declared")

    def _dead_men(self, watched: Watched) -> list[Alert]:
        return [a for a in self._alerts.values() if _matches(a, watched.signal.dead_man or {}, watched)]

    def _forget_most(self) -> None:
        """Keep what was spoken of last."""
        for key in list(self._alerts)[: max(0, len(self._alerts) - ALERTS_MAX)]:
            del self._alerts[key]


def _unusable(alert: Alert, known: Alert | None, now: datetime) -> str | None:
    if alert.starts_at > now + FUTURE_MAX:
        return f"it starts in the future, at {alert.starts_at.isoformat()}"
    if alert.ends_at is not None and (alert.ends_at > now + FUTURE_MAX or alert.ends_at < alert.starts_at):
        return f"it ends in the future or before it starts, at {alert.ends_at.isoformat()}"
    if known is None or alert.starts_at > known.starts_at:
        return None
    if alert.starts_at < known.starts_at:
        return "it is of an older episode"
    if not known.firing:
        return "this episode is known to have ended"
    return None


def _matches(alert: Alert, select: Mapping[str, str], watched: Watched) -> bool:
    return all(alert.labels.get(label) == meant(text, watched) for label, text in select.items())


def _alerts_in(body: bytes) -> list[Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise RecordError(f"a notification that is no JSON: {type(exc).__name__}") from exc
    if not isinstance(value, dict) or value.get("version") != VERSION:
        found = value.get("version") if isinstance(value, dict) else None
        raise RecordError(f"a notification of version {str(found)[:20]!r}, not {VERSION!r}")
    alerts = value.get("alerts")
    if not isinstance(alerts, list) or not isinstance(value.get("groupKey"), str):
        raise RecordError("a notification without alerts or groupKey")
    if len(alerts) > ALERTS_MAX:
        raise RecordError(f"a notification of {len(alerts)} alerts, more than {ALERTS_MAX}")
    return alerts


def _alert(value: Any, heard_s: float) -> Alert:
    try:
        labels, status = value["labels"], value["status"]
        starts_at, ends_at = _time(value["startsAt"]), _time(value.get("endsAt") or NOT_YET.isoformat())
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as exc:
        raise RecordError(f"an alert that is none: {type(exc).__name__}: {exc}"[:300]) from exc
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        raise RecordError("an alert whose labels are none")
    if status not in ("firing", "resolved"):
        raise RecordError(f"an alert of status {str(status)[:40]!r}")
    firing = status == "firing"  # a firing one may say when it will be taken for ended: that is no end
    return Alert(labels, firing, starts_at, None if firing or ends_at == NOT_YET else ends_at, heard_s)


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text[:40]} has no zone")
    return at

"""What Alertmanager said, as evidence: its own time counts, a replay changes nothing, and silence is not well."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hyops.adapters.alerts import ALERTS_MAX, Alerts
from hyops.errors import RecordError
from hyops.model.policy import Signal
from hyops.ports.signals import Watched

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
SELECT = {"alertname": "PrimaryDown", "host": "$host"}


def at(offset_s: float) -> str:
    """A time as Alertmanager writes it."""
    return (NOW + timedelta(seconds=offset_s)).isoformat().replace("+00:00", "Z")


def alert(
    status: str = "firing", starts_s: float = -60.0, ends_s: float | None = None, **labels: str
) -> dict[str, Any]:
    """One alert of a notification."""
    end = "0001-01-01T00:00:00Z" if ends_s is None else at(ends_s)
    named = {"alertname": "PrimaryDown", "host": "onprem-db", **labels}
    return {"status": status, "labels": named, "annotations": {}, "startsAt": at(starts_s), "endsAt": end}


DEAD_MAN = alert(alertname="Watchdog", host="-")


def told(*alerts: dict[str, Any], **words: Any) -> bytes:
    """A notification of the webhook, version 4."""
    return json.dumps(
        {"version": "4", "groupKey": "{}:{}", "status": "firing", "alerts": list(alerts), **words}
    ).encode()


def heard(alerts: Alerts, *said: dict[str, Any], now_s: float = 100.0) -> list[str]:
    """One notification; what was passed over."""
    return alerts.take(told(*said), now=NOW, now_s=now_s)


def value(alerts: Alerts, now_s: float = 100.0, **words: Any) -> float | None:
    """What a signal about the primary sees."""
    body = {"name": "a", "source": "alertmanager", "select": SELECT, "max_age_s": 90.0, **words}
    watched = Watched(signal=Signal.of(body), host="onprem-db", address="10.77.1.10", port=5432)
    look = alerts.look(watched, now_s)
    assert look.said
    return look.value


@pytest.mark.req("DEC-2")
def test_an_alert_is_bad_with_its_own_time_and_well_when_it_is_resolved() -> None:
    """Firing is 0 and says since when; resolved is 1; the alert of another host says nothing of ours."""
    alerts = Alerts()
    heard(alerts, alert(host="cloud-db"))
    assert value(alerts) is None

    heard(alerts, alert())
    watched = Watched(
        signal=Signal.of({"name": "a", "source": "alertmanager", "select": SELECT}),
        host="onprem-db",
        address="x",
        port=1,
    )
    assert alerts.look(watched, 100.0).value == 0.0
    assert "2026-01-31T11:59:00" in (alerts.look(watched, 100.0).said or "")

    heard(alerts, alert("resolved", ends_s=-1.0))
    assert value(alerts) == 1.0


@pytest.mark.req("DEC-3", "INV-5")
@pytest.mark.parametrize(
    ("late", "why"),
    [
        (alert(), "known to have ended"),
        (alert(starts_s=-600.0), "older episode"),
        (alert(starts_s=60.0), "future"),
        (alert("resolved", starts_s=-30.0, ends_s=600.0), "future"),
        (alert("resolved", starts_s=-30.0, ends_s=-40.0), "before it starts"),
        (alert("resolved", ends_s=-1.0), "known to have ended"),
    ],
    ids=["replayed", "older", "future", "future-end", "ends-first", "repeated"],
)
def test_what_is_replayed_old_or_of_the_future_changes_nothing(late: dict[str, Any], why: str) -> None:
    """After the end of an episode: passed over with its reason, and what was known stands."""
    alerts = Alerts()
    heard(alerts, alert())
    heard(alerts, alert("resolved", ends_s=-1.0))

    (fault,) = heard(alerts, late, now_s=150.0)

    assert why in fault
    assert value(alerts, 150.0) == 1.0
    assert value(alerts, 200.0) is None, "nor was it refreshed"


@pytest.mark.req("DEC-3", "INV-5")
def test_silence_for_longer_than_the_repeat_interval_is_unknown() -> None:
    """An alert that fires is repeated; when it is not, nobody knows; a repetition makes it fresh."""
    alerts = Alerts()
    heard(alerts, alert())
    assert value(alerts, 190.0) == 0.0
    assert value(alerts, 191.0) is None

    heard(alerts, alert(), now_s=191.0)

    assert value(alerts, 191.0) == 0.0


@pytest.mark.req("DEC-2", "INV-5")
def test_no_alert_is_well_only_while_the_dead_mans_alert_is_repeated() -> None:
    """Nothing heard is unknown; with the dead man alive it is 1; when he falls silent or is resolved, unknown again."""
    alerts, dead_man = Alerts(), {"dead_man": {"alertname": "Watchdog"}}
    assert value(alerts, **dead_man) is None

    heard(alerts, DEAD_MAN)
    assert value(alerts, **dead_man) == 1.0
    assert value(alerts) is None, "without dead_man, silence stays unknown"
    assert value(alerts, 191.0, **dead_man) is None

    heard(alerts, {**DEAD_MAN, "status": "resolved", "endsAt": at(-1.0)})
    assert value(alerts, **dead_man) is None
    heard(alerts, alert())
    assert value(alerts, **dead_man) == 0.0, "what fires was heard all the same"


@pytest.mark.fault(6)
@pytest.mark.req("DEC-3", "INV-5")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{" * 100_000,
        b"\xff\xfe",
        told(version="3"),
        told(version=4),
        told(groupKey=None),
        told(alerts="x"),
        told(alert("pending")),
        told({**alert(), "startsAt": "yesterday"}),
        told({**alert(), "startsAt": "2026-01-31T12:00:00"}),
        told({**alert(), "startsAt": 5}),
        told({**alert(), "labels": {"host": 5}}),
        told({**alert(), "labels": None}),
        told(alert(), {"status": "firing"}),
        told(*[{}] * (ALERTS_MAX + 1)),
    ],
    ids=range(16),
)
def test_a_notification_that_is_none_changes_nothing_at_all(body: bytes) -> None:
    """Refused whole, also when only its last alert is wrong."""
    alerts = Alerts()
    with pytest.raises(RecordError):
        alerts.take(body, now=NOW, now_s=100.0)

    assert value(alerts) is None


def test_memory_is_bounded() -> None:
    """However many alerts are told of, the latest are kept."""
    alerts = Alerts()
    for part in range(3):
        heard(alerts, *[alert(n=f"{part}-{n}") for n in range(ALERTS_MAX // 2)])
    heard(alerts, alert())

    assert len(alerts._alerts) <= ALERTS_MAX
    assert value(alerts) == 0.0


@pytest.mark.req("DEC-4", "UX-1")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"select": None}, "needs select"),
        ({"vantages": ["control"]}, "no vantage point"),
        ({"comparator": "lte"}, "thresholds"),
        ({"threshold": 0.0}, "thresholds"),
        ({"expect": {}}, "expect is for source http"),
        ({"source": "tcp", "vantages": ["v"]}, "select is for source"),
        ({"source": "prometheus", "url": "http://x", "query": "q", "dead_man": {"a": "b"}}, "dead_man is for source"),
        ({"source": "file", "select": None}, "file:///"),
        ({"source": "http", "select": None, "vantages": ["v"], "url": "ftp://x"}, "http://"),
        ({"source": "http", "select": None, "url": "http://x"}, "names its vantages"),
        ({"select": {"a-b": "c"}}, "select"),
    ],
)
def test_a_signal_that_makes_no_sense_is_refused(words: dict[str, Any], why: str) -> None:
    """The error names what is wrong."""
    body = {"name": "a", "source": "alertmanager", "select": SELECT, **words}
    with pytest.raises(RecordError, match=why):
        Signal.of({key: item for key, item in body.items() if item is not None})


@pytest.mark.req("DEC-5")
def test_what_is_new_stays_out_of_the_bytes_of_older_policies() -> None:
    """A signal that uses none of it has the same body as before, so recorded inputs keep their digest."""
    body = Signal.of({"name": "a", "source": "tcp", "vantages": ["v"]}).body()

    assert {"select", "dead_man", "expect"} & body.keys() == set()

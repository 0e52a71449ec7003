"""A quorum that is lost is found out once: whoever asks after that is told at once, and nobody waits for it again."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from etcd_kit import Overheard
from hyops.adapters import etcd_records_session
from hyops.adapters.etcd_records import EtcdRecordStore
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.errors import StoreLostError
from hyops.testing.contract_records import ONE
from loopback import Etcd, missing
from waiting import freeze, wait_for

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
ATTEMPTS = [f"attempt-20260314T030000Z-failover-{number:08x}" for number in range(6)]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One member, which is as good as a quorum that is lost."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


def keys_of(body: dict[str, Any]) -> str:
    """Every key that a transaction names."""
    parts = [body, *body.get("compare", []), *body["success"], *body.get("failure", [])]
    named = [one.get("key") for part in parts for one in (part, *part.values()) if isinstance(one, dict)]
    return "\n".join(base64.b64decode(key).decode() for key in named if key)


def followed(records: Overheard) -> EtcdRecordStore:
    """Outcomes, as a stage follows them."""
    store = records.store("execution", "outcomes")
    for _ in range(3):
        store.ids()
    return store


@pytest.mark.req("LOOP-3", "EXE-1")
@pytest.mark.fault(13)
def test_who_finds_the_quorum_lost_tells_the_others(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """No heartbeat has found out yet; what is asked next is refused before anything is sent."""
    monkeypatch.setattr(etcd_records_session, "HEARTBEAT_S", 3600.0)
    with Overheard(etcd.endpoints, "first") as records:
        starts, store = EtcdStarts(records.session, 20), followed(records)
        records.stop = lambda body: ATTEMPTS[0] in keys_of(body)
        with pytest.raises(StoreLostError, match="no quorum: no answer"):
            starts.maybe_sent(ATTEMPTS[0])
        wait_for(lambda: records.session.lost is not None, "the loss, which somebody else found")
        with pytest.raises(StoreLostError, match="no quorum: no answer"):
            starts.note(ATTEMPTS[1])
        with pytest.raises(StoreLostError):
            store.ids()
        assert not [body for body in records.sent if ATTEMPTS[1] in keys_of(body)]


@pytest.mark.req("LOOP-3", "EXE-1")
@pytest.mark.fault(13)
def test_of_all_open_attempts_the_first_alone_waits_for_a_lost_quorum(etcd: Etcd) -> None:
    """Nothing is sent for the others; the right that was held is given back, and all go on when it has returned."""
    with Overheard(etcd.endpoints, hasty=True) as records:
        starts, store = EtcdStarts(records.session, 20), followed(records)
        with starts.dialling(ATTEMPTS[0]) as mine:
            assert mine
            freeze(etcd.processes[0].pid)
            with pytest.raises(StoreLostError), starts.dialling(ATTEMPTS[1]):
                pytest.fail("nobody knows")
            wait_for(lambda: records.session.lost is not None, "the loss")
            sent = len(records.sent)
            for attempt_id in ATTEMPTS[2:]:
                with pytest.raises(StoreLostError), starts.dialling(attempt_id):
                    pytest.fail("nobody knows")
                with pytest.raises(StoreLostError):
                    starts.note(attempt_id)
                with pytest.raises(StoreLostError):
                    starts.maybe_sent(attempt_id)
                with pytest.raises(StoreLostError) as unwritten:
                    store.create(f"outcome-{attempt_id[-8:]}", ONE)
                assert "whether it was written" not in unwritten.value.message
        asked = [keys_of(body) for body in records.sent[sent:]]
        assert not [keys for keys in asked if any(name in keys for name in [*ATTEMPTS[2:], "outcomes/outcome-"])]
        etcd.processes[0].send_signal(signal.SIGCONT)
        wait_for(lambda: records.session.lost is None, "the return")
        wait_for(lambda: not starts.dials(), "the right that was given back meanwhile")
        with starts.dialling(ATTEMPTS[2]) as mine:
            assert mine

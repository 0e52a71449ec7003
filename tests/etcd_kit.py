"""Records on the etcd of a test: a session that is closed at the end, stores of it, and etcd asked directly."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import httpx

from hyops.adapters.etcd_gateway import EtcdGateway, b64
from hyops.adapters.etcd_records import EtcdRecordStore
from hyops.adapters.etcd_records_session import EtcdSession

PATIENT_S = 10.0  # a slow machine is no lost quorum


class Records:
    """One process's session with one loop. `attempt_s` short: as in production."""

    def __init__(self, endpoints: Sequence[str], env: str = "lab", *, attempt_s: float = 1.0, **access: Any) -> None:
        def connect() -> EtcdGateway:
            return EtcdGateway(endpoints, attempt_s=attempt_s, limit_s=PATIENT_S, **access)

        self.endpoints, self.env = list(endpoints), env
        self.session = EtcdSession(connect, env, f"etcd {env}")

    def store(self, stage: str = "dispatch", kind: str = "requests") -> EtcdRecordStore:
        """One kind of record."""
        return EtcdRecordStore(self.session, stage, kind)

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()


def ask(endpoint: str, path: str, **body: Any) -> dict[str, Any]:
    """One request to one member, as `etcdctl` would send it."""
    answer = httpx.post(endpoint + path, json=body, trust_env=False, timeout=10.0)
    value = answer.json()
    assert answer.status_code == 200, value
    return dict(value)


def put(endpoint: str, key: str, value: bytes) -> dict[str, Any]:
    """Write a key."""
    return ask(endpoint, "/v3/kv/put", key=b64(key), value=base64.b64encode(value).decode())


def delete(endpoint: str, key: str) -> dict[str, Any]:
    """Remove a key."""
    return ask(endpoint, "/v3/kv/deleterange", key=b64(key))


def value_of(endpoint: str, key: str) -> bytes | None:
    """What a key holds."""
    found = ask(endpoint, "/v3/kv/range", key=b64(key)).get("kvs", [])
    return base64.b64decode(found[0]["value"]) if found else None


def compact(endpoint: str) -> int:
    """Forget everything but the present; returns its revision."""
    now = int(ask(endpoint, "/v3/kv/range", key=b64("x"))["header"]["revision"])
    ask(endpoint, "/v3/kv/compaction", revision=str(now), physical=True)
    return now

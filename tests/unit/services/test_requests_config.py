"""The dispatcher's configuration: what it could not live with is refused when it is read (DSP-1, LOOP-2)."""

from __future__ import annotations

from typing import Any

import pytest

from hyops.errors import RecordError
from hyops.services.config_requests import DispatchConfig

LANE = {"target_ref": "dr/x@v1", "target_env": "lab", "execution_plane": "runner-local"}


def dispatcher(lane: dict[str, Any] = LANE, **changes: Any) -> DispatchConfig:
    """One with a plain route."""
    body = {
        "api_version": "hybridops/v1",
        "kind": "DecisionDispatcher",
        "signing_key": "/k",
        "trusted_keys": "/t",
        "services": ["pg"],
        "routes": {"env": "lab", "dispatcher_routes": {"failover": lane}},
    }
    return DispatchConfig.of({**body, **changes}, source="dispatch.json")


@pytest.mark.req("LOOP-1", "LOOP-2")
@pytest.mark.parametrize("max_age_s", [1e12, 30 * 86400 + 1.0, 0.0, -1.0])
def test_an_age_that_no_request_may_have_is_refused(max_age_s: float) -> None:
    """Thirty days are the most: what overflows a calendar would stop the stage at every decision."""
    with pytest.raises(RecordError, match=r"dispatch\.json: max_age_s: "):
        dispatcher(max_age_s=max_age_s)

    assert dispatcher(max_age_s=30 * 86400.0).max_age_s == 30 * 86400.0


@pytest.mark.req("DSP-1")
def test_a_route_to_a_module_is_refused_with_what_to_write() -> None:
    """The file, the key and the mend are named before any decision comes."""
    with pytest.raises(RecordError, match=r"dispatch\.json: routes: .*failover\.target_kind: .*target_kind: blueprint"):
        dispatcher({**LANE, "target_kind": "module"})

"""The dispatcher's configuration: what it could not live with is refused when it is read (DSP-1, LOOP-2)."""

from __future__ import annotations

from typing import Any

import pytest

from hyops.compose_check import LOOKS
from hyops.compose_loop import planner
from hyops.errors import ConfigError, RecordError, UnsafePlanError
from hyops.model.decision import Decision
from hyops.model.vocabulary import DecisionType
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
def test_a_route_to_a_module_is_not_installed_and_its_requests_say_why() -> None:
    """Nothing plans a module by itself. What is there already is read, as any foreign one: it stops no other route."""
    config = dispatcher({**LANE, "target_kind": "module"})
    (lane,) = config.routes.of_type(DecisionType.FAILOVER)
    with pytest.raises(
        ConfigError, match=r"dispatch\.json: routes\.dispatcher_routes\.failover\.target_kind: "
    ) as caught:
        LOOKS["dispatch"](config, "dispatch.json")
    assert "target_kind: blueprint" in caught.value.hint
    decision = Decision.model_construct(service="pg", decision_type=DecisionType.FAILOVER)
    with pytest.raises(UnsafePlanError, match=r"is a module: .*target_kind: blueprint"):
        planner(config)(lane, decision)

"""The routes of a foreign dispatcher in our words (DSP-1, VOC-3, CAT-5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hyops.control.foreign.document import LAPTOP, Foreign, Where, kind_of, known_type
from hyops.errors import ConfigError
from hyops.model.vocabulary import SPELLINGS, ExecutionPlane

GONE_FROM_ROUTES = {
    "dispatcher_execution_mode": "record-only is the only mode",
    "dispatcher_poll_seconds": "hand-over is by event",
    "poll_seconds": "hand-over is by event",
    **dict.fromkeys(
        ["inventory_groups", "inventory_state_ref", "inventory_vm_groups", "target_user", "connectivity_check"],
        "where the stage is installed does not stand in its routes",
    ),
}
RouteRefs = Mapping[str, str]


NotRun = Callable[[str], str | None]
"""Why no runner runs a module by itself; None when one does."""


def routes_body(
    given: Foreign,
    *,
    env: str | None = None,
    runners: RouteRefs | None = None,
    not_run: NotRun = lambda module_ref: None,
) -> dict[str, Any]:
    """The JSON value of our routes for the inputs or the config.json of a foreign dispatcher.

    `runners`: decision type, in either spelling -> runner, for routes that name none.

    Raises:
        ConfigError: a route that may not be, two environments and no `env`, or a runner for no route.
    """
    named = dict(runners or {})
    table = given.take("dispatcher_routes", dict, needed=True)
    made = {kind: _route(given, kind, named, not_run) for kind in table}
    if named:
        raise ConfigError(f"{given.source}: no route {', '.join(sorted(named))}, so it needs no runner")
    envs = {route["target_env"] for route in made.values()}
    if env is None and len(envs) != 1:
        told = f"routes lead to {', '.join(sorted(envs))}" if envs else "there is no route"
        raise given.wrong(("dispatcher_routes",), told, "say whose --env it is")
    asks = given.take("dispatcher_require_approval", bool)
    given.lost_rest(GONE_FROM_ROUTES)
    return {
        "env": env or envs.pop(),
        "dispatcher_require_approval": True if asks is None else asks,
        "dispatcher_routes": made,
    }


def _route(given: Foreign, kind: str, runners: dict[str, str], not_run: NotRun) -> dict[str, Any]:
    where: Where = ("dispatcher_routes", kind)
    told = given.value["dispatcher_routes"][kind]
    known_type(given, where, kind)
    if not isinstance(told, dict):
        raise given.wrong(where, f"a route is a mapping, not {kind_of(told)}")
    keys = ("target_kind", "target_ref", "target_env", "execution_plane", "runner_ref", "requires_approval")
    made = {key: told[key] for key in keys if told.get(key) is not None}
    for key in ("target_ref", "target_env", "execution_plane"):
        if not isinstance(made.get(key), str):
            raise given.wrong((*where, key), "it is missing" if key not in made else f"text, not {kind_of(made[key])}")
    if made["execution_plane"] == LAPTOP:
        raise given.wrong(
            (*where, "execution_plane"),
            f"{LAPTOP} is refused: a recovery may not depend on somebody's laptop",
            f"write one of {', '.join(ExecutionPlane)}, and the runner that works there",
        )
    if "runner_ref" not in made:
        runner = next((runners.pop(word) for word in (kind, str(SPELLINGS.get(kind, kind))) if word in runners), None)
        if runner is not None:
            made["runner_ref"] = runner
        else:
            text = f"no plan can be made without one: --runner-ref {kind}=RUNNER"
            given.lost((*where, "runner_ref"), "not named", text)
    if made.get("target_kind") == "module" and (why := not_run(made["target_ref"])) is not None:
        given.lost((*where, "target_ref"), "no plan", f"its requests are denied: {why}", made["target_ref"])
    for key in told.keys() - set(keys):
        given.lost((*where, key), "left out", "not part of a route", told[key])
    return made

"""Which files a plan takes along: what its steps name, wherever in their inputs, and nothing that must not travel."""

from __future__ import annotations

from typing import Any

import pytest

from hyops.engine.bundling import Named, named_by, refuse_changed
from hyops.engine.plan import make_plan
from hyops.errors import ConfigError, RecordError, UnsafePlanError
from hyops.model.plan import Blueprint
from hyops.model.vocabulary import DecisionType, ExecutionPlane
from hyops.testing.runs import step


@pytest.mark.req("RUN-1", "BP-1a")
def test_files_state_and_shared_state_are_found_wherever_they_stand() -> None:
    """In nested inputs, in lists, in any step; once each; other texts are no names."""
    steps = [
        step("a", inputs={"hosts": "file:config/overlays/site-b/hosts.yml", "note": "see config/x", "n": 1}),
        step("b", inputs={"deep": {"more": ["file:config/roles/", {"db_state_ref": "platform/pg#dr"}]}}),
        step(
            "c", inputs={"net_state_ref": "shared:platform/net", "x_state_ref": "", "again_state_ref": "platform/pg#dr"}
        ),
    ]
    assert named_by(steps) == [
        Named("config/overlays/site-b/hosts.yml", "own", "config/overlays/site-b/hosts.yml", False, "step a, hosts"),
        Named("config/roles", "own", "config/roles", True, "step b, deep, more[0]"),
        Named(
            "shared/state/modules/platform__net/latest.json",
            "shared",
            "state/modules/platform__net/latest.json",
            False,
            "step c, net_state_ref",
        ),
        Named(
            "state/modules/platform__pg/instances/dr.json",
            "own",
            "state/modules/platform__pg/instances/dr.json",
            False,
            "step b, deep, more[1], db_state_ref",
        ),
    ]


@pytest.mark.req("RUN-1", "INV-10")
@pytest.mark.parametrize(
    "path",
    ["vault/bootstrap.vault.env", "credentials/id", "state/modules/x/latest.json", "config/../vault/x", "/etc/shadow",
     "", "config", "config/", "config//x", "./config/x", "artifacts", "work/x", "../x", "config/x/.."],
)  # fmt: skip
def test_what_must_not_travel_cannot_be_named(path: str) -> None:
    """Vault, credentials, other folders, whole folders of the root, and ways out are refused with the step's name."""
    with pytest.raises(ConfigError, match="step a, key"):
        named_by([step("a", inputs={"key": f"file:{path}"})])


@pytest.mark.req("RUN-1")
@pytest.mark.parametrize(
    "ref", ["../x", "a/../b", "Platform", "a#", "a#../x", "a#b/c", "a b", "shared:", "other:a", "a#b#c"]
)
def test_what_is_no_state_ref_is_refused(ref: str) -> None:
    """A ref becomes a path: nothing else than a module and an instance passes."""
    with pytest.raises(ConfigError, match="no state ref"):
        named_by([step("a", inputs={"x_state_ref": ref})])


@pytest.mark.req("INV-4")
@pytest.mark.fault(11)
@pytest.mark.parametrize(
    ("now", "said"),
    [({"a": "1", "b": "x"}, "b changed"), ({"a": "1"}, "b is gone"), ({"a": "1", "b": "2", "c": "3"}, "c came since")],
)
def test_a_bundle_that_is_not_the_approved_one_is_refused(now: dict[str, str], said: str) -> None:
    """What changed, is gone or came since is named; the same files pass."""
    approved = {"a": "1", "b": "2"}
    refuse_changed(approved, dict(approved))
    with pytest.raises(UnsafePlanError, match=said):
        refuse_changed(approved, now)


@pytest.mark.req("INV-4", "RUN-1")
def test_the_digests_are_part_of_what_is_approved() -> None:
    """The resolved inputs decide which files; another byte in one of them is another plan digest."""
    body = {
        "api_version": "hybridops/v1",
        "kind": "BlueprintSpec",
        "blueprint_ref": "test/files@v1",
        "title": "t",
        "inputs": {"site": "which"},
        "steps": [step("a", inputs={"hosts": "file:config/{{ site }}/hosts.yml"}).body()],
    }

    def plan(digest: str | None) -> str:
        return make_plan(
            Blueprint.of(body),
            env="lab",
            service="pg",
            decision_type=DecisionType.FAILOVER,
            runner_ref="cloud-runner",
            execution_plane=ExecutionPlane.RUNNER_LOCAL,
            inputs={"site": "b"},
            bundle_of=None
            if digest is None
            else lambda steps: {n.name: f"sha256:{digest * 64}" for n in named_by(steps)},
        ).digest()

    assert plan("0") != plan("1")
    assert plan("0") == plan("0")
    with pytest.raises(ConfigError, match=r"step a, hosts names config/b/hosts\.yml; no runtime root"):
        plan(None)


@pytest.mark.req("RUN-1", "RUN-6", "BP-1")
def test_the_state_that_a_step_keeps_goes_along() -> None:
    """With an instance or published outputs a step keeps state; it may be missing, one that is named may not."""
    kept = [step("a", module="platform/net", state_instance="site-b"), step("b", module="platform/dns", publishes=[])]
    named = named_by([*kept, step("c", module="platform/dhcp", inputs={"net_state_ref": "platform/net#site-b"})])
    assert [(one.path, one.optional) for one in named] == [
        ("state/modules/platform__dns/latest.json", True),
        ("state/modules/platform__net/instances/site-b.json", False),
    ]
    assert named_by([step("plain")]) == []


@pytest.mark.req("BP-1", "ROOT-3")
@pytest.mark.parametrize(
    "more",
    [
        {"state_instance": "a..b"},
        {"state_instance": "a/b"},
        {"state_instance": "A"},
        {"module": "a/../b", "publishes": []},
        {"module": "a//b", "publishes": []},
        {"module": "a" * 300, "publishes": []},
        {"publishes": ["a\nb"]},
        {"publishes": ["../a"]},
    ],
)
def test_a_step_cannot_keep_state_elsewhere(more: dict[str, Any]) -> None:
    """What is no state reference, or no name of an output, is no step."""
    with pytest.raises(RecordError):
        step("a", **{"module": "platform/net", **more})


@pytest.mark.req("BP-1", "ROOT-3")
def test_two_steps_cannot_keep_one_state() -> None:
    """Which of them would be its last word could not be told."""
    steps = [step(name, module="platform/net", state_instance="b").body() for name in ("a", "c")]
    body = {"api_version": "hybridops/v1", "kind": "BlueprintSpec", "blueprint_ref": "t@v1", "title": "t"}
    with pytest.raises(RecordError, match="as another step does"):
        Blueprint.of({**body, "steps": steps})

"""Files of an older hybridops: what comes over, what is lost and said, what is refused (CAT-5, VOC-1 to VOC-5)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyops.adapters.yaml_files import with_lines
from hyops.control.foreign.document import Foreign
from hyops.errors import ConfigError, RecordError
from hyops.model import canonical
from hyops.services.importing import Imported, import_decision, import_routes, import_state

DECISION = {
    "decision_id": "decision-20260313T041204Z-cutover-b8239f1f",
    "timestamp_utc": "2026-03-13T04:12:04Z",
    "decision_type": "cutover",
    "status": "emitted",
    "execution_mode": "emit-only",
    "runtime_env": "dev",
    "rationale": "primary_up_min breached for 120 s",
    "checks": [
        {
            "metric": "primary_up_min",
            "query_key": "primary_up_query",
            "value": 0.0,
            "threshold": 1,
            "comparator": "gte",
            "ok": False,
            "sample_epoch": 1773375120.0,
            "sample_age_s": 4.0,
            "fresh": True,
        }
    ],
    "module_inputs": {"powerdns_api_key": "hunter2", "ttl": 60},
}
LANE = {"target_kind": "blueprint", "target_env": "dev", "execution_plane": "runner-local", "requires_approval": True}
ROUTES = {
    "dispatcher_execution_mode": "record-only",
    "dispatcher_require_approval": True,
    "dispatcher_routes": {
        "cutover": {**LANE, "target_ref": "dr/postgresql-ha-failover-gcp@v1"},
        "failback": {**LANE, "target_ref": "dr/postgresql-ha-failback-onprem@v1"},
    },
}
STATE = {
    "module_ref": "platform/postgresql-ha",
    "status": "ok",
    "run_id": "mod-20260313T041204Z-b8239f1f",
    "updated_at": "2026-03-13T04:12:04Z",
    "state_instance": "postgresql_restore_gcp_dr",
    "outputs": {"endpoint_host": "10.77.2.10", "db_password": "hunter2", "superuser_password_env": "PG_PASSWORD"},
    "env": "dev",
    "resolved_inputs_file": "/home/op/.hybridops/x.yml",
}


def foreign(value: Any) -> Foreign:
    """The document of a file with this value."""
    return Foreign.of("old.json", *with_lines(json.dumps(value, indent=1).encode(), source="old.json"))


def lost(found: Imported) -> dict[str, str]:
    """Key -> what became of it."""
    return {point.key: point.became for point in found.lossy}


@pytest.mark.req("CAT-5", "VOC-1", "DSP-3")
def test_a_decision_comes_over_and_says_what_it_lost() -> None:
    """Type in our word with the old one beside it, checks with their samples; each loss has its line."""
    found = import_decision(foreign(DECISION), service="pg")
    body = found.made.body()

    assert (body["decision_type"], body["source_decision_type"], body["env"]) == ("failover", "cutover", "dev")
    assert (body["requires_approval"], body["level"]) == (True, "recommend")
    (check,) = body["checks"]
    assert (check["name"], check["status"], check["age_s"]) == ("primary_up_min", "bad", 4.0)
    assert check["sampled_at"].startswith("2026-03-13T04:12:00")
    assert set(lost(found)) == {"execution_mode", "checks.0.query_key", "module_inputs", "generation"}
    assert [p.line for p in found.lossy] == [6, 12, 22, 0]


@pytest.mark.req("CAT-5", "INV-10")
@pytest.mark.parametrize("told", [DECISION, {**DECISION, "api_token": "hunter2"}])
def test_what_may_be_a_secret_is_not_repeated(told: dict[str, Any]) -> None:
    """Neither in the record nor in the list of losses."""
    found = import_decision(foreign(told))

    assert "hunter2" not in json.dumps(found.body())


@pytest.mark.req("CAT-5", "INV-5", "DEC-3")
@pytest.mark.parametrize(
    "changes", [{"fresh": False}, {"value": None}, {"value": True}, {"ok": None}, {"ok": "false"}], ids=str
)
def test_a_check_without_a_fresh_value_is_unknown(changes: dict[str, Any]) -> None:
    """The old loop counted it as failed; here nobody saw anything."""
    found = import_decision(foreign({**DECISION, "checks": [{**DECISION["checks"][0], **changes}]}))  # type: ignore[index,dict-item]

    assert found.made.body()["checks"][0]["status"] == "unknown"


@pytest.mark.req("CAT-5", "LOOP-1")
@pytest.mark.parametrize("status", ["proposed", "queued-local-exec"])
def test_what_was_not_for_the_dispatcher_stays_so(status: str) -> None:
    """Proposed only, or done by the old service itself: no request follows from it a second time."""
    found = import_decision(foreign({**DECISION, "status": status}))

    assert found.made.body()["dry_run"] is True
    assert lost(found)["status"] == "dry_run: true"


@pytest.mark.req("CAT-5", "APR-3", "INV-6")
def test_an_old_record_waives_no_approval() -> None:
    """Nobody signed it."""
    found = import_decision(foreign({**DECISION, "requires_approval": False}))

    assert found.made.body()["requires_approval"] is True
    assert lost(found)["requires_approval"] == "true"


@pytest.mark.req("CAT-5", "VOC-1", "VOC-2", "VOC-3", "UX-1")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"decision_type": "flip"}, "old.json:4: decision_type: 'flip' is none of burst, failover"),
        ({"target_cloud": "hetzner"}, "target_cloud"),
        ({"dr_mode": "pray"}, "dr_mode"),
        ({"execution_plane": "workstation-direct"}, "execution_plane: workstation-direct"),
        ({"execution_plane": "carrier-pigeon"}, "execution_plane"),
        ({"timestamp_utc": "yesterday"}, "old.json:3: timestamp_utc: 'yesterday' is no time"),
        (
            {"timestamp_utc": "0001-01-01T00:00:00+05:00"},
            "old.json:3: timestamp_utc: '0001-01-01T",
        ),
        ({"timestamp_utc": "9999-12-31T23:59:59-05:00"}, "has no time in UTC"),
        ({"decision_id": "\ud800"}, "old.json:2: decision_id: \\ud800 has half of a character"),
        ({"cutover_policy": {"mode": "\udfff"}}, "cutover_policy.mode: \\udfff has half of a character"),
        ({"checks": [{"metric": "up\ud800"}]}, "checks.0.metric: up\\ud800 has half of a character"),
        ({"odd\ud800": 1}, "odd\\ud800 has half of a character"),
        ({"rationale": None}, "rationale: it is missing"),
        ({"decision_id": 7}, "decision_id: a number, not str"),
        ({"decision_id": "../../etc/passwd"}, "decision_id"),
        ({"checks": {"a": 1}}, "checks: a mapping, not list"),
        ({"checks": ["up"]}, "checks.0: a check is a mapping"),
        ({"checks": [{"ok": True}]}, "checks.0: a check names its metric"),
        ({"status": "maybe"}, "status: 'maybe' is none of emitted"),
        (
            {"checks": [{"metric": "up", "ok": True, "value": 1, "sample_epoch": 10**18}]},
            f"{10**18} is no time",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_said_is_refused_with_its_place(changes: dict[str, Any], told: str) -> None:
    """Never mapped to something near."""
    with pytest.raises(ConfigError) as refused:
        import_decision(foreign({**DECISION, **changes}))

    assert told in refused.value.message
    assert refused.value.message.startswith("old.json")


@pytest.mark.req("CAT-5", "DSP-1", "VOC-1")
def test_routes_come_over_under_the_word_they_had() -> None:
    """A runner can be named for those that name none, in either spelling; whoever has none is told."""
    found = import_routes(foreign(ROUTES), runners={"failover": "gcp-ops-runner"})
    table = found.made.body()["dispatcher_routes"]

    assert found.made.body()["env"] == "dev"
    assert table["cutover"]["runner_ref"] == "gcp-ops-runner"
    assert "runner_ref" not in table["failback"]
    assert lost(found) == {
        "dispatcher_execution_mode": "left out",
        "dispatcher_routes.failback.runner_ref": "not named",
    }


@pytest.mark.req("CAT-5", "DSP-1")
def test_a_module_that_nothing_runs_here_is_a_lossy_point() -> None:
    """It comes over as it is, and the old file's owner is told now, not when its requests are denied."""
    table = {
        "cutover": {**LANE, "target_kind": "module", "target_ref": "platform/network/dns-routing"},
        "failback": {**LANE, "target_kind": "module", "target_ref": "native/noop"},
    }
    known = {"native/noop": None}
    found = import_routes(
        foreign({**ROUTES, "dispatcher_routes": table}),
        runners={"failover": "a", "failback": "b"},
        not_run=lambda ref: known.get(ref, "no such module"),
    )

    made = found.made.body()["dispatcher_routes"]
    assert [made[word]["target_kind"] for word in table] == ["module", "module"]
    (point,) = [one for one in found.lossy if one.key.endswith("target_ref")]
    assert (point.key, point.was, point.became) == (
        "dispatcher_routes.cutover.target_ref",
        "platform/network/dns-routing",
        "no plan",
    )
    assert point.why == "its requests are denied: no such module"


@pytest.mark.req("CAT-5", "VOC-3", "APR-3", "INV-6", "UX-1")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"execution_plane": "workstation-direct"},
            "old.json:8: dispatcher_routes.cutover.execution_plane: work",
        ),
        ({"execution_plane": "teleport"}, "execution_plane"),
        ({"target_env": "prod"}, "routes lead to dev, prod"),
        ({"target_ref": None}, "dispatcher_routes.cutover.target_ref: it is missing"),
        ({"requires_approval": "no"}, "requires_approval"),
        ({"target_kind": "magic"}, "target_kind"),
    ],
    ids=str,
)
def test_a_route_that_may_not_be_is_refused(changes: dict[str, Any], told: str) -> None:
    """Also the laptop: a recovery may not depend on one, and no other plane is guessed for it."""
    table = {**ROUTES["dispatcher_routes"], "cutover": {**LANE, "target_ref": "dr/x@v1", **changes}}  # type: ignore[dict-item]

    with pytest.raises(ConfigError) as refused:
        import_routes(foreign({**ROUTES, "dispatcher_routes": table}))

    assert told in refused.value.message


@pytest.mark.req("CAT-5", "VOC-1")
@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"cutover": {**LANE, "target_ref": "dr/a@v1"}, "failover": {**LANE, "target_ref": "dr/b@v1"}}, "one type"),
        ({"flip": {**LANE, "target_ref": "dr/a@v1"}}, "'flip' is none of"),
        ({"cutover": "dr/a@v1"}, "a route is a mapping, not text"),
        (None, "dispatcher_routes: it is missing"),
        ({}, "there is no route"),
    ],
    ids=["both-spellings", "unknown", "text", "none", "empty"],
)
def test_a_table_that_may_not_be_is_refused(table: Any, told: str) -> None:
    """Two keys for one type are an error, not the later of both."""
    with pytest.raises(ConfigError) as refused:
        import_routes(foreign({**ROUTES, "dispatcher_routes": table}))

    assert told in refused.value.message


@pytest.mark.req("CAT-5")
def test_a_runner_for_a_route_that_is_not_there_is_a_mistake() -> None:
    """A typing error would leave the route without its runner."""
    with pytest.raises(ConfigError, match="no route fialback"):
        import_routes(foreign(ROUTES), runners={"fialback": "proxmox-ops-runner"})


@pytest.mark.req("CAT-5", "APR-3")
def test_what_asked_for_approval_asks_for_it_still() -> None:
    """The default of the environment and the word of each route come over as they are."""
    body = import_routes(foreign({**ROUTES, "dispatcher_require_approval": False})).made.body()

    assert body["dispatcher_require_approval"] is False
    assert {route["requires_approval"] for route in body["dispatcher_routes"].values()} == {True}
    silent = import_routes(foreign({"dispatcher_routes": ROUTES["dispatcher_routes"]})).made.body()
    assert silent["dispatcher_require_approval"] is True


@pytest.mark.req("CAT-5", "ROOT-3", "INV-10")
def test_state_comes_over_without_its_secrets() -> None:
    """What names a secret is left out, what names where one is stays; paths of the old installation go."""
    found = import_state(foreign(STATE))
    body = found.made.body()

    assert body["outputs"] == {"endpoint_host": "10.77.2.10", "superuser_password_env": "PG_PASSWORD"}
    assert (body["status"], body["generation"], body["state_instance"]) == ("ok", 0, "postgresql_restore_gcp_dr")
    assert set(lost(found)) == {"outputs.db_password", "env", "resolved_inputs_file"}
    assert "hunter2" not in json.dumps(found.body())


@pytest.mark.req("CAT-5", "INV-10")
@pytest.mark.parametrize("field", ["outputs", "input_contract", "execution", "dependencies"])
def test_a_secret_is_left_out_of_state_at_any_depth(field: str) -> None:
    """Each with its path; what stands beside it stays."""
    deep = {"db": {"password": "hunter2", "port": 5432}}
    found = import_state(foreign({**STATE, "outputs": {}, field: [deep] if field == "dependencies" else deep}))

    assert "hunter2" not in json.dumps(found.body())
    assert "5432" in json.dumps(found.made.body()[field])
    assert any(key.endswith("db.password") for key in lost(found))


@pytest.mark.req("CAT-5", "VOC-5")
@pytest.mark.parametrize("status", ["running", "success", "partly"])
def test_a_status_that_nothing_may_rest_on_is_unknown(status: str) -> None:
    """Under way when it was copied, or in a word that is not ours: never ok."""
    found = import_state(foreign({**STATE, "status": status}))

    assert found.made.body()["status"] == "unknown"
    assert lost(found)["status"] == "unknown"


@pytest.mark.req("CAT-5", "UX-1")
@pytest.mark.parametrize(
    "changes",
    [
        {"module_ref": None},
        {"module_ref": "../x"},
        {"updated_at": 7},
        {"run_id": []},
        {"outputs": []},
        {"status": None},
    ],
    ids=str,
)
def test_state_that_does_not_say_whose_it_is_is_refused(changes: dict[str, Any]) -> None:
    """With the key."""
    with pytest.raises(ConfigError, match=next(iter(changes))):
        import_state(foreign({**STATE, **changes}))


@pytest.mark.req("CAT-5", "INV-5")
def test_half_a_character_is_no_text_of_a_record() -> None:
    """Wherever a value comes from: a RecordError, as for every other value that has no form."""
    for value in ("\ud800", {"\udfff": 1}, ["ok", {"a": "b\ud800"}]):
        with pytest.raises(RecordError, match="half of a surrogate pair"):
            canonical.encode(value)

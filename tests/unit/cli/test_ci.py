"""`hyops ci` on real folders, keys and signatures: each command says yes to what is good, and names what is not."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ci_site import CiSite, switch_now
from hyops import compose_operator
from hyops.adapters.arrival import glances
from hyops.cli.ci_case import append, one_line
from hyops.cli.main import main
from hyops.errors import PrerequisiteError
from hyops.evidence.chain import FILE
from hyops.model.base import iso_utc
from hyops.model.dsse import sign_record
from hyops.model.vocabulary import Outcome
from hyops.services.ci import await_it, bundle_of
from hyops.testing import evidence as seeds
from waiting import PATIENCE_S

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site(tmp_path: Path) -> CiSite:
    """A request waits."""
    return CiSite(tmp_path).ask()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """One command of `hyops ci`: exit code, stdout, stderr."""
    for name in ("TRUST", "STORE", "DISPATCH_ID", "REQUEST_DIGEST"):
        monkeypatch.delenv(f"HYOPS_CI_{name}" if name == "TRUST" else f"HYOPS_{name}", raising=False)

    def called(site: CiSite, command: str, *words: object, files: bool = False) -> tuple[int, str, str]:
        given = [str(word) for word in words]
        named = [] if files else ["--store", str(site.store), "--dispatch-id", site.dispatch_id]
        code = main(["ci", command, "--trust", str(site.trust), *named, *given])
        said = capsys.readouterr()
        return code, said.out, said.err

    return called


def as_files(site: CiSite, folder: Path) -> list[object]:
    """The same records, handed over as files."""
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(site.switch.plan.body()))
    (folder / "decision.json").write_bytes(site.switch.decision.encoded())
    (folder / "request.json").write_bytes(site.switch.request.encoded())
    return [word for name in ("decision", "request", "plan") for word in (f"--{name}", folder / f"{name}.json")]


@pytest.mark.req("RUN-12", "UX-2")
def test_a_good_request_is_validated_and_pinned(site: CiSite, run: Run, tmp_path: Path) -> None:
    """Exit 0; the digests are there for people, for programs and for the next step, which can insist on them."""
    code, text, _ = run(site, "validate", "--output-file", tmp_path / "out")
    _, said, _ = run(site, "validate", "--json")
    digest = site.switch.request.digest()

    assert (code, digest in text) == (0, True)
    assert json.loads(said)["request_digest"] == digest
    assert dict(line.split("=", 1) for line in (tmp_path / "out").read_text().splitlines()) == {
        "HYOPS_REQUEST_DIGEST": digest,
        "HYOPS_PLAN_DIGEST": site.switch.plan.digest(),
        "HYOPS_DECISION_DIGEST": site.switch.decision.digest(),
    }
    assert run(site, "validate", "--request-digest", digest)[0] == 0
    assert run(site, "validate", "--request-digest", "sha256:" + "0" * 64)[0] == 16


@pytest.mark.req("RUN-12", "UX-1", "INV-5")
def test_damaged_foreign_and_missing_records_are_refused(site: CiSite, run: Run, tmp_path: Path) -> None:
    """Each with the exit code of its kind, and nothing for the next step."""
    request = site.folder("dispatch", "requests") / f"{site.dispatch_id}.json"
    good = request.read_bytes()
    other = sign_record(
        site.switch.request.model_copy(update={"rationale": "another"}), seeds.STAGES["dispatch"]
    ).encoded()
    for data, code in (
        (b"", 11),
        (good[:-20], 11),
        (good.replace(b'"service":"pg"', b'"service":"qg"'), 16),
        (good.replace(b'"status"', b'"unknown":1,"status"'), 11),
        (good.replace(b'"rationale":"pg-write', b'"rationale":"xx-write'), 11),
        (other, 0),
    ):
        request.write_bytes(data)
        assert run(site, "validate", "--output-file", tmp_path / "out")[0] == code, data
        assert (tmp_path / "out").exists() is (code == 0)
    request.unlink()
    assert run(site, "validate")[0] == 12


@pytest.mark.req("RUN-12", "INV-10")
@pytest.mark.parametrize("name", ["../requests", "..", "/etc/passwd", "a b", "x\ny", ""])
def test_an_id_that_would_be_another_place_finds_nothing(site: CiSite, name: str, tmp_path: Path) -> None:
    """A request is named, never a path."""
    words = ["--trust", str(site.trust), "--store", str(site.store), "--dispatch-id", name]

    assert main(["ci", "validate", *words]) in (2, 11, 12)
    assert main(["ci", "collect", *words, "-o", str(tmp_path / "out")]) in (2, 11, 12)
    assert not (tmp_path / "out").exists()


@pytest.mark.req("RUN-12")
def test_records_as_files_are_judged_the_same(site: CiSite, run: Run, tmp_path: Path) -> None:
    """Without any store: validated, selected, and approved by the approvals that are handed over."""
    files = as_files(site, tmp_path / "files")
    shutil.rmtree(site.store)
    approval = tmp_path / "approval.json"
    approval.write_bytes(site.signed().encoded())

    assert run(site, "validate", *files, files=True)[0] == 0
    assert run(site, "select", *files, files=True)[0] == 0
    assert run(site, "enforce", *files, files=True)[0] == 13
    assert run(site, "enforce", *files, "--approval", approval, files=True)[0] == 0


@pytest.mark.req("RUN-12", "UX-1")
def test_half_of_the_files_or_both_ways_is_a_usage_error(site: CiSite, run: Run, tmp_path: Path) -> None:
    """Neither is guessed."""
    files = as_files(site, tmp_path / "files")

    assert run(site, "validate", *files)[0] == 2
    assert run(site, "validate", *files[:4], files=True)[0] == 2
    assert run(site, "validate", files=True)[0] == 2


@pytest.mark.req("RUN-12", "APR-1")
def test_an_approval_by_the_right_person_carries_the_request(site: CiSite, run: Run) -> None:
    """13 before it is signed, 0 afterwards, with who signed."""
    assert run(site, "enforce")[0] == 13
    code, said, _ = run(site.approve(), "enforce", "--json")

    assert (code, json.loads(said)["approved_by"]) == (0, [seeds.APPROVER])


@pytest.mark.req("RUN-12", "APR-1", "APR-3")
@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "changes",
    [
        {"request_digest": "sha256:" + "0" * 64},
        {"plan_digest": "sha256:" + "0" * 64},
        {"dispatch_id": "dispatch-20260314T030008Z-failover-00000000"},
        {"approver": "eve@example.org"},
        {"verdict": "reject"},
        {"verdict": "break-glass", "accepted_loss": "3 rows"},
        {"signed_at": -7200},
        {"signed_at": 600, "expires_at": 1200},
        {"signed_at": -120, "expires_at": -60},
    ],
)
def test_an_approval_that_is_for_something_else_does_not_count(site: CiSite, run: Run, changes: dict[str, Any]) -> None:
    """Well signed, and about other bytes, by nobody here, a no, without its role, too old, early or over."""
    now = datetime.now(UTC)
    moments = {k: iso_utc(now + timedelta(seconds=v)) for k, v in changes.items() if isinstance(v, int)}

    assert run(site.approve(**(changes | moments)), "enforce")[0] == 13


@pytest.mark.req("RUN-12", "APR-1")
@pytest.mark.fault(10)
def test_a_forged_or_edited_approval_does_not_count(site: CiSite, run: Run, tmp_path: Path) -> None:
    """Another key, another name on the same bytes, a word changed afterwards: named on stderr."""
    (tmp_path / "elsewhere").mkdir()
    stranger = CiSite(tmp_path / "elsewhere", site.switch).key
    forged = site.signed(key=stranger, name="-1")
    edited = site.signed(name="-2")
    edited = edited.model_copy(update={"statement": site.statement(note="of course")})
    for approval in (forged, edited):
        site.put(approval)

    code, _, err = run(site, "enforce")

    assert code == 13
    assert err.count("does not count") == 2


@pytest.mark.req("RUN-12", "APR-1")
@pytest.mark.fault(10)
def test_an_approval_that_nobody_can_read_is_named(site: CiSite, run: Run) -> None:
    """Torn, no approval at all, or a copy under another name: it might have been the one that is missing."""
    folder = site.put(site.signed()).parent
    (good,) = folder.glob("*.json")
    (folder / "approval-copy.json").write_bytes(good.read_bytes())
    (folder / "approval-other.json").write_text('{"yes": true}\n')
    (folder / "approval-torn.json").write_bytes(good.read_bytes()[:100])
    good.unlink()

    code, _, err = run(site, "enforce")

    assert code == 13
    for name in ("approval-copy", "approval-other", "approval-torn"):
        assert f"does not count: {name}" in err


@pytest.mark.req("RUN-12", "APR-3")
def test_the_policy_of_ci_is_its_own(site: CiSite, run: Run) -> None:
    """Two are required here, whatever the control host requires; without a policy nothing is approved."""
    site.approve().write("approval-policy.yml", {"required": 2})
    code, _, err = run(site, "enforce")
    assert (code, "1 of 2" in err) == (13, True)
    (site.trust / "approval-policy.yml").unlink()
    assert run(site, "enforce")[0] == 12


@pytest.mark.req("RUN-12", "APR-1")
def test_a_revoked_key_stops_counting(site: CiSite, run: Run) -> None:
    """The list of revoked signers is read where it is there."""
    site.approve()
    (site.trust / "revoked_signers").write_text((site.root / "ada.pub").read_text())

    assert run(site, "enforce")[0] == 13


@pytest.mark.req("RUN-12", "APR-3")
def test_an_expired_request_is_not_carried_by_its_approval(tmp_path: Path, run: Run) -> None:
    """Half an hour later nothing is validated or enforced any more."""
    site = CiSite(tmp_path, switch_now(ago_s=1800)).ask().approve()

    assert run(site, "validate")[0] == 13
    assert run(site, "enforce")[0] == 13


@pytest.mark.req("RUN-12", "LOOP-1")
def test_enforce_waits_for_the_signature(site: CiSite, run: Run) -> None:
    """It is asked before the approval is there, and answers when it comes, not when the time is over."""
    signed = site.signed()
    done = threading.Timer(0.3, lambda: site.put(signed))
    done.start()
    code, _, _ = run(site, "enforce", "--wait", 60)
    done.join()

    assert code == 0


@pytest.mark.req("RUN-12", "APR-1")
def test_a_rejection_ends_the_wait(site: CiSite, run: Run) -> None:
    """At once; and it wins over a grant."""
    site.approve()
    site.put(site.signed(site.statement(verdict="reject", note="not now"), name="-no"))

    code, _, err = run(site, "enforce", "--wait", 3600)

    assert (code, "not now" in err) == (13, True)


@pytest.mark.req("RUN-2", "RUN-12")
def test_the_runner_is_named_for_the_next_step(site: CiSite, run: Run, tmp_path: Path) -> None:
    """From CI's own maps; a changed map is another answer."""
    status = tmp_path / "status"
    status.write_text('{"ok": true, "runner_ref": "cloud-runner", "site": "cloud"}\n')
    code, text, _ = run(site, "select", "--output-file", tmp_path / "out", "--status", status)

    assert (code, text) == (0, "cloud-runner in cloud: seen ready\n")
    assert (tmp_path / "out").read_text() == "HYOPS_RUNNER_REF=cloud-runner\nHYOPS_RUNNER_SITE=cloud\n"
    assert run(site, "select", "--failed-site", "cloud")[0] == 12
    status.write_text('{"ok": false, "runner_ref": "cloud-runner", "error": "x", "message": "y"}\n')
    assert run(site, "select", "--status", status)[0] == 12
    status.write_text("no JSON\n")
    assert run(site, "select", "--status", status)[0] == 11
    (site.trust / "runners.yml").unlink()
    assert run(site, "select")[0] == 12


def kept(folder: Path) -> list[str]:
    """What lies in the output folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


STANDING: dict[str, tuple[str, int]] = {
    "away": ('{"ok": false, "runner_ref": "cloud-runner", "error": "RunnerUnreachableError", "message": "refused"}', 0),
    "no login": ('{"ok": false, "runner_ref": "cloud-runner", "error": "PrerequisiteError", "message": "denied"}', 0),
    "stands": ('{"ok": true, "runner_ref": "cloud-runner", "site": "cloud"}', 12),
    "another key": ('{"ok": false, "runner_ref": "cloud-runner", "error": "HostKeyError", "message": "changed"}', 12),
    "not asked": (
        '{"ok": false, "runner_ref": "onprem-runner", "error": "RunnerUnreachableError", "message": "x"}',
        12,
    ),
    "nobody asked": ("", 12),
    "it does not say": ('{"runner_ref": "cloud-runner"}', 12),
    "no JSON": ("an error\n", 11),
}


@pytest.mark.req("RUN-12", "RUN-2", "UX-1")
@pytest.mark.parametrize("told", STANDING)
def test_only_a_missing_runner_may_be_made(site: CiSite, run: Run, tmp_path: Path, told: str) -> None:
    """Asked, not there, and the one that the request runs on; whatever else is said of it is a refusal."""
    said, code = STANDING[told]
    status, out = tmp_path / "status", tmp_path / "out"
    status.write_text(said + "\n" if said else "")

    assert run(site, "may-bootstrap", "cloud-runner", "--status", status, "--output-file", out)[0] == code
    assert out.exists() is (code == 0)
    assert run(site, "may-bootstrap", "onprem-runner", "--status", status)[0] == (11 if code == 11 else 16)


@pytest.mark.req("RUN-12", "RUN-2")
def test_no_runner_is_made_for_a_request_that_is_not_good(site: CiSite, run: Run, tmp_path: Path) -> None:
    """Expired, or for a runner in the failed site: the gate's own rules hold here too."""
    status = tmp_path / "status"
    status.write_text(STANDING["away"][0] + "\n")
    words = ("may-bootstrap", "cloud-runner", "--status", status)
    later = CiSite(tmp_path / "later", switch_now(ago_s=1800)).ask()

    assert run(site, *words, "--failed-site", "cloud")[0] == 12
    assert run(later, *words)[0] == 13
    assert run(site, *words)[0] == 0


@pytest.mark.req("RUN-12", "UX-2")
def test_the_last_look_says_how_far_a_request_has_come(site: CiSite, run: Run) -> None:
    """Asked for, refused by a stage, run: 0 each time, with what the records of the stages say and no more."""

    def told() -> dict[str, Any]:
        code, said, _ = run(site, "status", "--json")
        assert code == 0
        found: dict[str, Any] = json.loads(said)
        return found

    assert (told()["approval"], told()["run"], told()["outcomes"]) == ("waiting", "not begun", [])
    site.approve()
    assert (told()["approval"], told()["run"]) == ("ready", "not begun")
    site.refuse("execution", "request", site.dispatch_id, "no runner")
    assert (told()["run"], told()["refusals"][0]["reason"]) == ("refused", "no runner")
    site.run()
    ended = told()
    assert (ended["run"], ended["outcomes"][0]["outcome"]) == ("succeeded", "succeeded")
    assert (ended["attempts"][0]["run_id"], ended["request_digest"]) == (
        site.switch.attempt.run_id,
        site.switch.request.digest(),
    )
    assert "result" not in ended["outcomes"][0]


@pytest.mark.req("RUN-12", "INV-5")
def test_the_last_look_believes_no_other_key(site: CiSite, run: Run) -> None:
    """An outcome that another stage's key signed did not happen, as far as CI is concerned."""
    site.approve().run()
    outcome = sign_record(site.switch.outcome.model_copy(update={"outcome": Outcome.FAILED}), seeds.STAGES["approval"])
    for path in site.folder("execution", "outcomes").glob("*.json"):
        path.write_bytes(outcome.encoded())

    assert json.loads(run(site, "status", "--json")[1])["run"] == "open"
    assert run(site, "status", files=True)[0] == 2


@pytest.mark.req("RUN-12", "EVD-2")
def test_evidence_is_brought_and_verified(site: CiSite, run: Run, tmp_path: Path) -> None:
    """One tar that verifies again on its own, a page, a summary; the head is there to be kept elsewhere."""
    site.approve().run()
    code, said, _ = run(site, "collect", "-o", tmp_path / "out", "--json")
    told = json.loads(said)
    trust = ["--keys", site.trust / "trusted_keys.json", "--allowed-signers", site.trust / "allowed_signers"]
    words = [str(word) for word in ["verify", tmp_path / "out/evidence.tar", *trust, "--head", told["evidence_head"]]]

    assert (code, told["outcome"]) == (0, "succeeded")
    assert kept(tmp_path / "out") == ["evidence.tar", "report.html", "summary.json"]
    assert main(["evidence", *words]) == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["head"] == told["evidence_head"]


@pytest.mark.req("RUN-12", "UX-1")
@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNKNOWN])
def test_a_run_that_did_not_succeed_ends_with_its_own_exit_code(tmp_path: Path, run: Run, outcome: Outcome) -> None:
    """Good evidence of a bad run is kept, and the pipeline is not green."""
    site = CiSite(tmp_path, switch_now(outcome)).ask().approve().run()

    assert run(site, "collect", "-o", tmp_path / "out")[0] == 20
    assert "evidence.tar" in kept(tmp_path / "out")


@pytest.mark.req("RUN-12", "EVD-2")
@pytest.mark.fault(31)
def test_evidence_that_does_not_verify_gets_no_name(site: CiSite, run: Run, tmp_path: Path) -> None:
    """41, the record named; what lay there from an earlier time is gone too."""
    chain = site.approve().run().folder("execution", "evidence") / site.switch.attempt.run_id / FILE
    run(site, "collect", "-o", tmp_path / "out")
    lines = chain.read_bytes().splitlines(keepends=True)
    chain.write_bytes(b"".join(lines[:4] + lines[5:]))

    code, _, err = run(site, "collect", "-o", tmp_path / "out")

    assert (code, "line 5" in err) == (41, True)
    assert kept(tmp_path / "out") == ["evidence.unverified.tar"]


@pytest.mark.req("RUN-12", "EVD-2")
def test_good_evidence_of_another_run_is_refused(site: CiSite, run: Run, tmp_path: Path) -> None:
    """It verifies, and is about another request."""
    site.approve().run()
    other = CiSite(tmp_path / "other", switch_now(ago_s=60)).ask().approve().run()
    bundle = other.folder("execution", "evidence") / other.switch.attempt.run_id
    shutil.copy(other.trust / "allowed_signers", site.trust / "allowed_signers")

    code, _, err = run(site, "collect", "-o", tmp_path / "out", "--bundle", bundle)

    assert (code, "another request" in err) == (41, True)
    assert run(other, "collect", "-o", tmp_path / "out", "--bundle", bundle)[0] == 0


@pytest.mark.req("RUN-12", "LOOP-1")
def test_collect_waits_for_the_run(site: CiSite, run: Run, tmp_path: Path) -> None:
    """Asked before anything ran, it answers when the bundle is there."""
    site.approve()
    done = threading.Timer(0.3, site.run)
    done.start()
    code, _, _ = run(site, "collect", "-o", tmp_path / "out", "--wait", 60)
    done.join()

    assert code == 0


@pytest.mark.req("RUN-12", "INV-7")
def test_a_run_that_never_comes_is_not_waited_for(site: CiSite, run: Run, tmp_path: Path) -> None:
    """No evidence is 41; a refusal by a stage is 13 at once, with its reason; a rehearsal says that it is one."""
    assert run(site, "collect", "-o", tmp_path / "out")[0] == 41
    site.put(site.switch.execution)
    site.refuse("execution", "execution", site.switch.execution.execution_id, "service pg has no policy here")
    code, _, err = run(site, "collect", "-o", tmp_path / "out", "--wait", 3600)
    assert (code, "no policy here" in err) == (13, True)

    rehearsed = site.switch.attempt.model_copy(update={"status": "dry-run-ready", "execution_mode": "dry-run"})
    site.put(sign_record(rehearsed, seeds.STAGES["execution"]))
    assert run(site, "collect", "-o", tmp_path / "out", "--wait", 3600)[0] == 12


@pytest.mark.req("RUN-12", "UX-1")
def test_evidence_that_cannot_be_looked_at_is_said_so(site: CiSite) -> None:
    """A folder that may not be entered is not an absent bundle, and no bug."""
    site.run()
    stores = replace(compose_operator.loop_stores(site.store), evidence=site.store / ("x" * 300))
    with pytest.raises(PrerequisiteError, match="File name too long"):
        bundle_of(stores, site.dispatch_id, seeds.VERIFIER)


@pytest.mark.req("RUN-12", "INV-5")
def test_a_refusal_that_no_stage_signed_ends_nothing(site: CiSite, run: Run, tmp_path: Path) -> None:
    """A planted refusal, or one of something else, is not an answer."""
    site.refuse("approval", "approval", site.dispatch_id, "a bad approval")
    assert run(site, "collect", "-o", tmp_path / "out")[0] == 41
    planted = site.folder("execution", "refusals")
    planted.mkdir(parents=True)
    for path in site.folder("approval", "refusals").glob("*.json"):
        text = path.read_text().replace('"subject_kind":"approval"', '"subject_kind":"request"')
        (planted / path.name).write_text(text)
    assert run(site, "collect", "-o", tmp_path / "out")[0] == 41


@pytest.mark.req("RUN-12", "INV-10")
def test_what_records_say_stays_on_one_line(site: CiSite, run: Run) -> None:
    """CI obeys log lines that begin with `::`; a note cannot make one, nor can a name."""
    site.put(site.signed(site.statement(verdict="reject", note="no\n::add-mask::x\n::stop-commands::y\r\n")))

    for words in (["enforce"], ["enforce", "--json"]):
        code, out, err = run(site, *words)
        assert code == 13
        assert not [line for line in (out + err).splitlines() if line.startswith("::")]
    assert one_line("a\n\u2028\x1b[0m::b") == "a\\n\\u2028\\x1b[0m::b"


@pytest.mark.req("RUN-12", "UX-1")
def test_an_answer_that_cannot_be_handed_on_is_an_error(site: CiSite, run: Run, tmp_path: Path) -> None:
    """A later step would go on without it; and no value can become a second line."""
    assert run(site, "validate", "--output-file", tmp_path / "missing" / "out")[0] == 12
    with pytest.raises(PrerequisiteError):
        append(tmp_path, {"A": "b"})
    with pytest.raises(AssertionError):
        append(tmp_path / "out", {"A": "b\nC=d"})


@pytest.mark.req("LOOP-1", "RUN-12")
def test_a_folder_that_comes_later_is_seen_too(tmp_path: Path) -> None:
    """What is missing is looked for at the next rescan; a change in what is there wakes at once."""

    async def scenario() -> list[str]:
        seen = []
        here, later = tmp_path / "here", tmp_path / "later"
        here.mkdir()
        looks = glances([here, later], rescan_s=60.0)
        await anext(looks)
        (here / "one").write_text("x")
        async with asyncio.timeout(PATIENCE_S):
            await anext(looks)
        seen.append("one")
        quick = glances([later], rescan_s=0.01)
        await anext(quick)
        later.mkdir()
        (later / "two").write_text("x")
        async with asyncio.timeout(PATIENCE_S):
            found = await await_it(lambda: "two" if (later / "two").exists() else None, quick, 5.0)
        return [*seen, str(found)]

    assert asyncio.run(scenario()) == ["one", "two"]


@pytest.mark.req("RUN-12")
@pytest.mark.parametrize("lacks", ["__init__", "add_watch"])
def test_a_host_whose_watches_are_all_in_use_is_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    """Nobody tells when something arrives; the look after `rescan_s` finds it."""

    def all_in_use(*words: Any) -> None:
        raise OSError(errno.EMFILE if lacks == "__init__" else errno.ENOSPC, "all in use")

    async def scenario() -> str | None:
        looks = glances([tmp_path], rescan_s=0.01)
        await anext(looks)
        (tmp_path / "one").touch()
        return await await_it(lambda: "one" if (tmp_path / "one").exists() else None, looks, 10.0)

    monkeypatch.setattr(f"hyops.adapters.arrival.Inotify.{lacks}", all_in_use)
    assert asyncio.run(scenario()) == "one"


@pytest.mark.req("RUN-11", "RUN-12")
def test_a_wait_ends_with_its_limit() -> None:
    """Glances that never come do not hold it up; a last look is taken."""

    async def never() -> Any:
        await asyncio.Event().wait()
        yield

    looks: list[int] = []
    assert asyncio.run(await_it(lambda: looks.append(1), never(), 0.01)) is None
    assert looks == [1]


@pytest.mark.req("RUN-12", "EVD-2")
@pytest.mark.parametrize("kind", ["pipe", "big"])
def test_a_bundle_that_is_no_file_of_a_fit_size_is_refused(
    site: CiSite, run: Run, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe would be waited for, and a file without end fills the disk: neither is copied."""
    site.approve().run()
    bundle = tmp_path / "bundle.tar"
    if kind == "pipe":
        os.mkfifo(bundle)
    else:
        monkeypatch.setattr("hyops.evidence.bundle.BYTES_MAX", 1000)
        bundle.write_bytes(bytes(2 * 1024 * 1024))

    code, _, err = run(site, "collect", "-o", tmp_path / "out", "--bundle", bundle)

    assert (code, "not a regular file of at most" in err) == (41, True)
    assert kept(tmp_path / "out") == []

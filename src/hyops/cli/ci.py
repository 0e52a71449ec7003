"""`hyops ci`: gate a recovery from CI and collect its evidence; never opens a connection to anything (RUN-12)."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.ci_case import FILE, Asked, cased, one_line, plain
from hyops.errors import EvidenceError, NotApprovedError, NotVerifiedError, PrerequisiteError, RecordError

if TYPE_CHECKING:
    from hyops.control.approval import Verdict
    from hyops.control.gate import Case
    from hyops.evidence.verify import Verified
    from hyops.model.base import Record

BRIEF = {"attempt_id", "outcome_id", "refusal_id", "run_id", "timestamp_utc", "status", "outcome", "exit_code", "stage"}
BRIEF |= {"subject_id", "reason"}
WAIT = click.option("--wait", "wait_s", type=click.FloatRange(0, 86400), default=0.0, help="Seconds, at most.")


@click.group()
def ci() -> None:
    """Gate a recovery from CI and collect its evidence."""


@ci.command()
@cased
def validate(asked: Asked) -> None:
    """Check that decision, request and plan are genuine, belong together and are still open."""
    case, remarks = _validated(asked)
    request = case.request
    lines = [f"{request.dispatch_id}: {request.decision_type} of {request.service} ({request.occasion})"]
    lines += [f"  request  {request.digest()}", f"  plan     {case.plan.digest()}"]
    lines += [f"  note: {one_line(remark)}" for remark in remarks]
    asked.answer(
        "\n".join(lines),
        request_digest=request.digest(),
        plan_digest=case.plan.digest(),
        decision_digest=case.decision.digest(),
        remarks=remarks,
    )


@ci.command()
@WAIT
@cased
def enforce(asked: Asked, wait_s: float) -> None:
    """Exit 0 when the approvals carry exactly this request, by the approval stage's own rule; 13 when they do not."""
    from hyops import compose_operator as compose
    from hyops.services.ci import await_it

    told: set[str] = set()

    def judged() -> Verdict:
        verdict = _judged(asked)
        for unfit in verdict.unfit:  # at once: whoever waits can mend it meanwhile
            line = f"does not count: {one_line(unfit.approval_id)}: {one_line(unfit.reason)}"
            if line not in told:
                told.add(line)
                click.echo(line, err=True)
        return verdict

    def look() -> Verdict | None:
        verdict = judged()
        return None if verdict.state == "waiting" else verdict

    glances = compose.loop_glances(asked.store)
    verdict = asyncio.run(await_it(look, glances, 0.0 if asked.from_files else wait_s)) or judged()
    if verdict.state != "ready" or verdict.summary is None:
        raise plain(NotApprovedError(f"{verdict.state}: {verdict.reason}"))
    by = [one_line(name) for name in verdict.summary.approved_by]
    text = f"approved ({verdict.summary.mode}) by {', '.join(by) or 'nobody: the route needs nobody'}"
    asked.answer(text, mode=verdict.summary.mode, approved_by=by)


@ci.command()
@click.option("--failed-site", "failed_sites", multiple=True, metavar="SITE", help="A site that is lost; repeat.")
@click.option("--status", type=FILE, help="What `hyops runner status --json` printed on the control host.")
@cased
def select(asked: Asked, failed_sites: tuple[str, ...], status: Path | None) -> None:
    """Name the runner: mapping, request and plan agree on it, and it is outside of what failed."""
    from hyops.control.gate import select as selected

    case, _ = _validated(asked)
    trust = asked.trust
    seen = None if status is None else _seen(status)
    found = selected(case, trust.routes(), trust.runners(), failed_sites=failed_sites, seen=seen)
    ready = "seen ready" if found.ready else "nobody asked whether it is ready"
    text = f"{found.runner_ref} in {found.site}: {ready}"
    asked.answer(text, runner_ref=found.runner_ref, runner_site=found.site, ready=found.ready)


@ci.command("may-bootstrap")
@click.argument("runner_ref")
@click.option("--failed-site", "failed_sites", multiple=True, metavar="SITE", help="A site that is lost; repeat.")
@click.option("--status", type=FILE, required=True, help="What `hyops runner status --json` printed.")
@cased
def may_bootstrap(asked: Asked, runner_ref: str, failed_sites: tuple[str, ...], status: Path) -> None:
    """Exit 0 when RUNNER_REF, named by a person, is the runner of the request and is missing. Makes nothing.

    A standing runner is assumed: nothing makes one by itself, in a recovery least of all.
    """
    from hyops.control.gate import may_bootstrap as judged_missing
    from hyops.control.gate import select as selected

    case, _ = _validated(asked)
    trust = asked.trust
    found = selected(case, trust.routes(), trust.runners(), failed_sites=failed_sites)
    why = one_line(judged_missing(found, runner_ref, _seen(status)))
    asked.answer(f"{found.runner_ref} in {found.site} is missing: {why}", missing_runner=found.runner_ref, why=why)


@ci.command("status")
@cased
def show_status(asked: Asked) -> None:
    """What the records say of the request now: approvals, attempts, outcomes, refusals. Ends 0 whatever they say."""
    from hyops import compose_operator as compose
    from hyops.services import ci

    if asked.from_files:
        raise PrerequisiteError("records as files tell of no run", hint="name the request with --dispatch-id")
    case, trust = asked.case(), asked.trust
    verifier, stores, name = trust.verifier(), compose.loop_stores(asked.store), case.request.dispatch_id
    verdict = ci.judged(case, trust.policy(), trust.approvals(), compose.utc_now())
    attempts = [_brief(one) for one in ci.attempts_of(stores, name, verifier)]
    outcomes = [_brief(one) for one in ci.outcomes_of(stores, name, verifier)]
    refusals = [_brief(one) for one in ci.refusals_of(stores, name, verifier)]
    ended = outcomes[-1]["outcome"] if outcomes else "open" if attempts else "refused" if refusals else "not begun"
    asked.answer(
        f"{name}: approval {verdict.state}, run {ended}",
        dispatch_id=name,
        request_digest=case.request.digest(),
        approval=str(verdict.state),
        approval_reason=one_line(verdict.reason),
        run=str(ended),
        attempts=attempts,
        outcomes=outcomes,
        refusals=refusals,
    )


@ci.command()
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="A bundle that was handed over, instead of the store's."
)
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="FOLDER")
@WAIT
@cased
def collect(asked: Asked, bundle: Path | None, output: Path, wait_s: float) -> int:
    """Bring the evidence of the request's run to FOLDER and verify it there; ends with the run's exit code."""
    from hyops import compose_operator as compose
    from hyops.services.ci import await_it, bundle_of

    request, trust = asked.only_request(), asked.trust
    if bundle is None:
        if asked.from_files:
            raise PrerequisiteError("records as files come with their bundle", hint="pass --bundle")
        stores, verifier = compose.loop_stores(asked.store), trust.verifier()
        looked = await_it(
            lambda: bundle_of(stores, request.dispatch_id, verifier), compose.loop_glances(asked.store), wait_s
        )
        bundle = asyncio.run(looked)
    if bundle is None:
        raise EvidenceError(
            f"{request.dispatch_id}: no evidence within {wait_s:g} s",
            hint="look at `hyops status` on the control host, then collect again",
        )
    return _brought(asked, request.digest(), bundle, output)


@ci.command("init")
@click.argument("forge", type=click.Choice(["github", "forgejo", "gitlab"]))
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), default=".", show_default=True)
@click.option("--force", is_flag=True, help="Replace a file that is another one.")
def write_template(forge: str, directory: Path, force: bool) -> None:
    """Write the workflow for a forge into a repository."""
    from hyops.services.ci_templates import write

    path, new = write(forge, directory, force=force)
    click.echo(f"{path}: {'written' if new else 'is the same already'}")


def _brief(record: Record) -> dict[str, Any]:
    """A record without what the evidence has anyway."""
    return {key: value for key, value in record.body().items() if key in BRIEF}


def _validated(asked: Asked) -> tuple[Case, list[str]]:
    from hyops import compose_operator as compose
    from hyops.compose_runner import MODULES
    from hyops.control.gate import validate as validated

    case = asked.case()
    return case, validated(case, asked.trust.verifier(), MODULES, compose.utc_now())


def _judged(asked: Asked) -> Verdict:
    """Validated anew each time: what is approved must still be what it was."""
    from hyops import compose_operator as compose
    from hyops.services.ci import judged

    case, _ = _validated(asked)
    return judged(case, asked.trust.policy(), asked.trust.approvals(), compose.utc_now())


def _seen(status: Path) -> dict[str, dict[str, Any]]:
    """One JSON object a line, by runner."""
    from hyops.model import canonical

    try:
        lines = status.read_bytes().splitlines()
    except OSError as exc:
        raise PrerequisiteError(f"{status}: {exc.strerror}") from exc
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        told = canonical.parse(line, source=f"{status}: line {number}")
        if not isinstance(told, dict) or not isinstance(told.get("runner_ref"), str):
            raise RecordError(f"{status}: line {number}: not what `hyops runner status --json` prints")
        found[told["runner_ref"]] = told
    return found


def _brought(asked: Asked, request_digest: str, bundle: Path, output: Path) -> int:
    """Verify the copy that is handed on, not the original; it gets its name when it has verified."""
    from hyops.evidence import report
    from hyops.evidence.bundle import copy_tar, pack
    from hyops.evidence.verify import verify_path
    from hyops.model.execution import AttemptOutcome

    tar, unverified = output / "evidence.tar", output / "evidence.unverified.tar"
    try:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in (tar, unverified, output / "report.html", output / "summary.json"):
            old.unlink(missing_ok=True)
        if bundle.is_dir():
            pack(bundle, unverified)
        else:
            copy_tar(bundle, unverified)
        verified = verify_path(unverified, asked.trust.verifier(), asked.trust.approvals())
        _about(verified, request_digest)
        (output / "report.html").write_text(report.page(verified.contents, verified), encoding="utf-8")
        told = {**report.as_json(verified.contents, verified), "head": verified.head}
        (output / "summary.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(unverified, tar)
    except OSError as exc:
        raise EvidenceError(f"{output}: {exc.strerror}", hint="name a place that can be written") from exc
    placed = verified.contents.get(AttemptOutcome)
    if placed is None:
        raise NotVerifiedError("the evidence verifies and says of no outcome: the run is still open, or unknown")
    outcome = placed.record
    text = f"evidence verified ({verified.records} records), {outcome.outcome}; head {verified.head}; in {output}"
    asked.answer(text, run_id=outcome.run_id, outcome=str(outcome.outcome), evidence_head=verified.head)
    return outcome.exit_code if outcome.outcome == "succeeded" else outcome.exit_code or NotVerifiedError.exit_code


def _about(verified: Verified, request_digest: str) -> None:
    """Good evidence of another switch proves nothing about this one."""
    from hyops.model.dispatch import DispatchRequest

    placed = verified.contents.get(DispatchRequest)
    found = None if placed is None else placed.record.digest()
    if found != request_digest:
        raise EvidenceError(f"this bundle is about another request: {found}", expected=request_digest)

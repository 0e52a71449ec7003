"""`hyops decision`: replay and explain what was decided, or ask for a planned switch (DEC-5)."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyops.cli.approval_options import FILE
from hyops.cli.config_file import TO_READ, read_file
from hyops.cli.said import say

if TYPE_CHECKING:
    from hyops.model.decision import Decision
    from hyops.model.observed import DecisionInputs

DEFAULT_CONFIG = "/opt/hybridops/decision-service/config/config.json"
INPUTS = click.option(
    "--inputs", type=TO_READ, help="The recorded inputs [default: ../inputs/<digest>.json beside it]."
)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group()
def decision() -> None:
    """Replay and explain decisions."""


@decision.command()
@click.argument("file", type=TO_READ)
@INPUTS
@JSON
def replay(file: Path, inputs: Path | None, as_json: bool) -> None:
    """Compute a decision again from its recorded inputs; exit code 40 when one byte differs."""
    from hyops.control.decision import decision_of
    from hyops.errors import NotVerifiedError

    recorded, known = _read(file, inputs)
    again = decision_of(known)
    same = again is not None and again.unsigned() == recorded.unsigned()
    if not same:
        raise NotVerifiedError(
            f"{recorded.decision_id} does not replay: "
            + ("these inputs give no decision" if again is None else f"these inputs give {again.decision_id}"),
            hint="the decision or its inputs were changed, or another version of hyops made it",
        )
    said = {"decision_id": recorded.decision_id, "replayed": True, "digest": recorded.digest()}
    click.echo(json.dumps(said) if as_json else f"{recorded.decision_id}: the same {len(recorded.unsigned())} bytes")


@decision.command()
@click.argument("file", type=TO_READ)
@INPUTS
@JSON
def explain(file: Path, inputs: Path | None, as_json: bool) -> None:
    """Say what was seen, how each vantage point voted, and why this followed."""
    from hyops.control.checks import votes_of

    recorded, known = _read(file, inputs)
    policy = known.policy
    objectives = {"rto_s": policy.rto_s, "rpo_s": policy.rpo_s}
    votes = votes_of(known) if known.asked is None else []  # nobody was asked to vote on a person's wish
    if as_json:
        said = [{"vantage": v.vantage, "state": v.state, "confirmed": v.confirmed} for v in votes]
        told = {"decision": recorded.body(), "votes": said, "mode": known.mode.body(), "objectives": objectives}
        click.echo(json.dumps(told))
        return
    say(recorded.decision_id, f"  {recorded.decision_type} at {recorded.timestamp_utc}: {recorded.rationale}")
    say(f"  primary {known.mode.primary}, generation {known.mode.generation}")
    promised = [f"{key.split('_')[0].upper()} {value:g} s" for key, value in objectives.items() if value is not None]
    say(f"  objectives: {', '.join(promised) or 'none'}")
    if known.hold is not None:
        say(f"  held by {known.hold.owner} until {known.hold.until}: {known.hold.reason}")
    if known.latch is not None:
        say(f"  latched at generation {known.latch.generation}: nobody had acknowledged the automatic switch")
    if known.asked is not None:
        proof = known.asked.proof
        proved = f", proved by {proof.key_fingerprint}" if proof else ""
        say(f"  asked for by {known.asked.requested_by}{proved}, {known.asked.occasion}: no signal was judged")
        return
    say(f"  rule: {policy.quorum} vantage points, confirmed for {policy.confirm_for_s:g} s without a gap")
    for vote in votes:
        lasting = f" for {known.now_s - vote.since_s:.2f} s" if vote.confirmed else ""
        say(f"  {vote.vantage:16} {vote.state}{lasting}{'  (confirmed)' if vote.confirmed else ''}")
    for check in recorded.checks:
        value = "-" if check.value is None else f"{check.value:g}"
        age = "-" if check.age_s is None else f"{check.age_s:.2f} s"
        seen = f"{check.name:24} {check.vantage or '-':16} {check.status:8} {value:>10}"
        say(f"    {seen}  age {age}  {check.reason or ''}")


@decision.command()
@click.option("--service", required=True)
@click.option("--type", "kind", required=True, help="failover or failback (older words are read too).")
@click.option("--occasion", type=click.Choice(["planned", "unplanned"]), default="planned", show_default=True)
@click.option("--rationale", default="asked for by an operator", show_default=True)
@click.option("--by", default=None, help="Who asks [default: you]. Nobody approves alone what he asked for himself.")
@click.option(
    "--key", type=FILE, help="Sign it with your SSH key: then who asks is proved, and is the key's principal."
)
@click.option(
    "--approvals", type=click.IntRange(1, 10), help="Ask for so many approvers, if the policy asks for fewer."
)
@click.option("--despite-hold", metavar="REASON", help="Ask although somebody holds the service, and say why.")
@click.option("--config", type=TO_READ, default=DEFAULT_CONFIG, envvar="HYOPS_DECISION_CONFIG")
@JSON
def request(
    service: str,
    kind: str,
    occasion: str,
    rationale: str,
    by: str | None,
    key: Path | None,
    approvals: int | None,
    despite_hold: str | None,
    config: Path,
    as_json: bool,
) -> None:
    """Ask for a switch: the same record on the same path as the loop's own, to be approved like any other."""
    from hyops import compose_asking, compose_operator
    from hyops.errors import UsageError
    from hyops.model.observed import Asked
    from hyops.model.routes import kind_of
    from hyops.model.vocabulary import Occasion
    from hyops.services.asking import refuse_unaskable

    try:
        wanted = kind_of(kind)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    who = compose_asking.asker(config, by, key) if key else getpass.getuser() if by is None else by
    refuse_unaskable(by=who, rationale=rationale, despite_hold=despite_hold)
    asked = Asked(
        decision_type=wanted,
        occasion=Occasion(occasion),
        rationale=rationale,
        requested_by=who,
        approvals_required=approvals,
        despite_hold=despite_hold,
    )
    if key is not None:
        asked = compose_asking.proved(config, service, asked, key)
    made = compose_operator.operator_decision(config, service, asked)
    said = {"decision_id": made.decision_id, "decision_type": str(made.decision_type), "generation": made.generation}
    click.echo(json.dumps(said) if as_json else f"{made.decision_id}: waits for its request to be approved")


def _read(file: Path, inputs: Path | None) -> tuple[Decision, DecisionInputs]:
    from hyops.errors import RecordError
    from hyops.model import canonical
    from hyops.model.decision import Decision
    from hyops.model.observed import DecisionInputs

    recorded = Decision.read(read_file(file, "name a decision's file"), source=str(file))
    if recorded.inputs_digest is None:
        whose = "an older hyops recorded it" if recorded.requested_by else "it was written by hand"
        raise RecordError(f"{file}: it has no recorded inputs: {whose}")
    path = inputs or file.resolve().parent.parent / "inputs" / f"{recorded.inputs_digest.removeprefix('sha256:')}.json"
    known = DecisionInputs.read(read_file(path, "name the recorded inputs with --inputs"), source=str(path))
    if canonical.digest(known.body()) != recorded.inputs_digest:
        raise RecordError(f"{path}: not the inputs of {recorded.decision_id}")
    return recorded, known

"""`hyops runner blueprint preflight` and `deploy`: the loop's own way, asked for by a person (RUN-2, APR-3)."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.config_file import TO_READ
from hyops.cli.root import root_options
from hyops.cli.runner_tell import Teller
from hyops.errors import EvidenceError, HyopsError, NotApprovedError, UsageError
from hyops.services.loading import loading

if TYPE_CHECKING:
    from hyops.model.execution import AttemptOutcome
    from hyops.services.deploy import Deployment, How
    from hyops.services.deploy_plan import Rules, Wanted
    from hyops.services.deploy_record import DeployRecord

HOME = Path("/opt/hybridops")
STAGES = {"decision": "service", "dispatch": "dispatcher", "approval": "consumer", "execution": "executor"}
SECRET_SOURCES = ("runtime", "vault", "gsm", "asm", "akv")


@click.group()
def blueprint() -> None:
    """Blueprints on a runner."""


def _asking(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands take; they get it as one `asked`."""
    options = [
        click.argument("ref"),
        click.option("--service", required=True),
        click.option("--decision-type", type=click.Choice(["failover", "failback", "burst"]), default="failover",
                     show_default=True),
        click.option("--occasion", type=click.Choice(["planned", "unplanned"]), default="planned", show_default=True),
        click.option("--runner-ref", help="The runner; it must be the one that the environment's mapping names."),
        click.option("--runner-state-ref", help="Take it from a state record: <module_ref>[#<instance>]."),
        click.option("--runner-vm-key", help="With --runner-state-ref: which of several runners it tells of."),
        click.option("--failed-site", "failed_sites", multiple=True, metavar="SITE", help="A lost site; repeat."),
        click.option("--sync-env", "keys", multiple=True, metavar="KEY",
                     help="Hand this secret over, from the vault cache; repeat."),
        click.option("--sync-env-from-shell", "shell_keys", multiple=True, metavar="KEY",
                     help="The same with the value of your own environment variable, instead of the cache's."),
        click.option("--secret-source", type=click.Choice(SECRET_SOURCES), default="runtime", show_default=True,
                     help="Refresh the vault cache from there first."),
        click.option("--secret-scope", "scopes", multiple=True, help="Only rows of this scope of the map; repeat."),
        click.option("--secret-map-file", "map_file", type=TO_READ, help="CSV of scope,ENV_KEY,REF."),
        click.option("--vault-password-file", "password_file", type=TO_READ, help="A file with the vault password."),
        click.option("--vault-password-command", "password_command", help="A command that prints it."),
        click.option("--rationale", default="asked for by an operator", show_default=True),
        click.option("--by", default=None, help="Who asks [default: you]. Nobody approves alone what he asked for."),
        click.option("--key", type=TO_READ,
                     help="Sign it with your SSH key: then who asks is proved, and is the key's principal."),
        click.option("--despite-hold", metavar="REASON", help="Ask although somebody holds the service, and say why."),
        *(
            click.option(f"--{stage}-config", type=TO_READ, envvar=f"HYOPS_{stage.upper()}_CONFIG", show_default=True,
                         default=HOME / f"decision-{home}" / "config" / "config.json")
            for stage, home in STAGES.items()
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs."),
    ]  # fmt: skip

    @wraps(command)
    def gathered(**given: Any) -> Any:
        own = {name: given.pop(name) for name in list(given) if name in _OWN}
        return command(asked=Options(given), **own)

    for option in reversed(options):
        gathered = option(gathered)
    return root_options(gathered)


_OWN = ("skip_preflight", "bypass_reason", "keep_remote_job", "bootstrap_runner", "wait_s", "yes")


@dataclass(frozen=True)
class Options:
    """What stood on the command line, by name."""

    given: dict[str, Any]

    def opened(self, how: How | None = None) -> Opened:
        """The environment, its loop and this deployment."""
        from hyops import compose_deploy as compose
        from hyops.cli.root import runtime_root
        from hyops.services.deploy import Deployment, How

        root, env = runtime_root(self.given["root"], self.given["env"])
        rules, loop = compose.deploy_loop(
            compose.StageFiles(**{stage: self.given[f"{stage}_config"] for stage in STAGES}),
            root,
            self.given["service"],
        )
        secrets = compose.sync_env(
            root,
            env,
            shell=self._shell(),
            source=self.given["secret_source"],
            keys=list(dict.fromkeys([*self.given["keys"], *self._of_profile(rules)])),
            **{name: self.given[name] for name in ("scopes", "map_file", "password_file", "password_command")},
        )
        teller = Teller(self.given["as_json"], approval_config=self.given["approval_config"])
        made = Deployment(self._asked(root, secrets.origins()), rules, loop, secrets, teller.tell, how or How())
        return Opened(root, env, made, teller)

    def _asked(self, root: Path, origins: Any) -> Any:
        from hyops import compose_asking
        from hyops import compose_deploy as compose
        from hyops.model.vocabulary import DecisionType, Occasion
        from hyops.services.asking import refuse_unaskable
        from hyops.services.deploy_plan import Asked

        given = self.given
        runner_ref, state_ref = given["runner_ref"], given["runner_state_ref"]
        if runner_ref and state_ref:
            raise UsageError("--runner-ref and --runner-state-ref exclude each other")
        if given["runner_vm_key"] and not state_ref:
            raise UsageError("--runner-vm-key belongs to --runner-state-ref")
        if state_ref:
            runner_ref = compose.runner_of_state(root, state_ref, given["runner_vm_key"])
        config, key = given["decision_config"], given["key"]
        typed = getpass.getuser() if given["by"] is None else given["by"]
        who = compose_asking.asker(config, given["by"], key) if key else typed
        refuse_unaskable(by=who, rationale=given["rationale"], despite_hold=given["despite_hold"])
        asked = Asked(
            blueprint_ref=given["ref"],
            service=given["service"],
            kind=DecisionType(given["decision_type"]),
            occasion=Occasion(given["occasion"]),
            rationale=given["rationale"],
            by=who,
            runner_ref=runner_ref,
            failed_sites=given["failed_sites"],
            sync_env=origins,
            despite_hold=given["despite_hold"],
        )
        if key is None:
            return asked
        return replace(asked, proof=compose_asking.proved(config, asked.service, asked.recorded, key).proof)

    def _of_profile(self, rules: Rules) -> list[str]:
        """The keys of the service's secret sync profile, but those that come from the shell this time."""
        return [key for key in rules.profile_keys() if key not in self.given["shell_keys"]]

    def _shell(self) -> dict[str, Any]:
        from hyops.model.secret import Secret

        if absent := [key for key in self.given["shell_keys"] if not os.environ.get(key)]:
            raise UsageError(f"--sync-env-from-shell: {', '.join(absent)} is not set in your environment")
        return {key: Secret(os.environ[key]) for key in self.given["shell_keys"]}


@dataclass(frozen=True)
class Opened:
    """One deployment, ready to go."""

    root: Path
    env: str
    deployment: Deployment
    teller: Teller

    def wanted(self) -> Wanted:
        """What the loop will make of it, if the request is for this environment."""
        from hyops.errors import ConfigError

        want = self.deployment.plan()
        if want.plan.env != self.env:
            raise ConfigError(
                f"the route is for environment {want.plan.env}, and {self.env} is selected",
                hint="select that one with --env or --root",
            )
        return want


@blueprint.command()
@_asking
def preflight(asked: Options) -> int:
    """Look at everything that a run would need, all at once, over one connection. Changes and stages nothing."""
    from hyops.services.deploy_checks import refusal

    with loading():
        opened = asked.opened()
        want = opened.wanted()
    found = asyncio.run(opened.deployment.preflight(want))
    opened.teller.plan(want.plan)
    opened.teller.tell("preflight", {"findings": [finding.body() for finding in found]})
    if (fault := refusal(found)) is not None:
        raise fault
    return 0


@blueprint.command()
@click.option("--skip-preflight", is_flag=True, help="Leave out what is asked of the runner; needs a reason.")
@click.option("--preflight-bypass-reason", "bypass_reason", help="Why; recorded before anything is done.")
@click.option("--keep-remote-job", is_flag=True, help="The runner keeps what was staged; secrets go all the same.")
@click.option("--bootstrap-runner", is_flag=True, help="Make the runner if it is not standing; recorded.")
@click.option("--wait", "wait_s", type=float, help="Seconds to wait for approval [default: while the request lives].")
@click.option("--yes", is_flag=True, help="Do not ask whether to ask for it. It is never an approval.")
@_asking
def deploy(
    asked: Options,
    skip_preflight: bool,
    bypass_reason: str | None,
    keep_remote_job: bool,
    bootstrap_runner: bool,
    wait_s: float | None,
    yes: bool,
) -> int:
    """Ask for a run, wait until people have approved it, and follow it to its end. Ends with the run's exit code."""
    from hyops.services.deploy import How

    if skip_preflight != bool((bypass_reason or "").strip()):
        raise UsageError("--skip-preflight and --preflight-bypass-reason go together")
    how = How(wait_s, bypass_reason if skip_preflight else None, keep_remote_job, bootstrap_runner)
    if how.bypass_reason:
        given = asked.given
        asked = Options({**given, "rationale": f"{given['rationale']} (preflight left out: {how.bypass_reason})"})
    with loading():
        opened = asked.opened(how)
        want = opened.wanted()
    opened.teller.plan(want.plan)
    _consent(yes)
    record = _record(opened, want, asked)
    outcome = None
    try:
        outcome = asyncio.run(opened.deployment.deploy(want, record))
    finally:
        if outcome is None:
            _broken_off(opened, record, sys.exception())
    return _ended(opened, outcome, record)


def _record(opened: Opened, want: Wanted, asked: Options) -> DeployRecord:
    """On disk before anything is done: what was asked for, by whom, and what was left out for which reason."""
    from hyops.model.base import iso_utc
    from hyops.services.deploy_record import DeployRecord

    deployment, given = opened.deployment, asked.given
    record = DeployRecord(opened.root, want.decision.decision_id)
    record.redactor = deployment.secrets.shell_redactor()
    record.begin(
        {
            "schema": "hyops/dispatch-request/v1",
            "at": iso_utc(want.decision.timestamp_utc or deployment.loop.clock.now()),
            "decision_id": want.decision.decision_id,
            "blueprint_ref": want.plan.blueprint_ref,
            "plan_digest": want.plan.digest(),
            "service": want.plan.service,
            "requested_by": deployment.asked.by,
            "rationale": deployment.asked.rationale,
            "runner_ref": want.runner_ref,
            "runner_state_ref": given["runner_state_ref"],
            "runner_vm_key": given["runner_vm_key"],
            "failed_sites": list(given["failed_sites"]),
            "runtime_root": str(opened.root),
            "sync_env": {key: str(origin) for key, origin in deployment.asked.sync_env.items()},
            "secret_source": given["secret_source"],
            "preflight_bypass_reason": deployment.how.bypass_reason,
            "keep_remote_job": deployment.how.keep,
            "bootstrap_runner": deployment.how.bootstrap,
        }
    )
    return record


def _ended(opened: Opened, outcome: AttemptOutcome, record: DeployRecord) -> int:
    unproven = opened.deployment.unproven
    code = outcome.exit_code or (EvidenceError.exit_code if unproven is not None else 0)
    record.end(
        {
            "status": str(outcome.outcome),
            "exit_code": code,
            "reason": outcome.reason,
            "run_id": outcome.run_id,
            "attempt_id": outcome.attempt_id,
            "outcome_id": outcome.outcome_id,
            "journal_head": outcome.journal_head,
            "evidence_fault": None if unproven is None else unproven.message,
            "record_fault": None if record.fault is None else record.fault.message,
            "phases_s": {**_phases(opened), **outcome.phases_s},
        }
    )
    opened.teller.tell("outcome", {**outcome.body(), "evidence": str(record.folder)})
    if record.fault is not None:
        opened.teller.tell("record", record.fault.as_json())
    return code or (EvidenceError.exit_code if record.fault is not None else 0)


def _broken_off(opened: Opened, record: DeployRecord, exc: BaseException | None) -> None:
    """Whatever ended it, a bug and a Ctrl-C too, stands in the record."""
    error = exc.as_json() if isinstance(exc, HyopsError) else {"error": type(exc).__name__}
    record.end({"status": "refused" if _harmless(exc) else "unknown", **error, "phases_s": _phases(opened)})


def _phases(opened: Opened) -> dict[str, float]:
    return opened.deployment.phases_s


def _harmless(exc: BaseException | None) -> bool:
    return isinstance(exc, HyopsError) and exc.effect == "none"


def _consent(yes: bool) -> None:
    """Consent to ask, which is not an approval; no terminal is never consent (APR-3)."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotApprovedError("there is no terminal to ask on, and that is never consent", hint="pass --yes")
    if not click.confirm("Ask for this run? It still needs its approval.", err=True):
        raise NotApprovedError("not asked for", hint="nothing was recorded")

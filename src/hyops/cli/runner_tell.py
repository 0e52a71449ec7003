"""What a person, or a program, sees of a deployment while it goes on (UX-2)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.approval_options import DEFAULT_CONFIG
from hyops.cli.said import say

if TYPE_CHECKING:
    from hyops.cli.run_view import RunView
    from hyops.model.plan import Plan


class Teller:
    """Lines as things happen. As JSON, every line is one object with its `event`."""

    def __init__(self, as_json: bool, *, approval_config: Path) -> None:
        self._as_json, self._approval_config = as_json, approval_config
        self._view: RunView | None = None

    def plan(self, plan: Plan) -> None:
        """What would run."""
        if self._as_json:
            self._json("plan", {"plan_digest": plan.digest(), "plan": plan.body()})
            return
        say(f"plan {plan.digest()} on {plan.runner_ref}")
        for step in plan.steps:
            needs = f" after {', '.join(step.requires)}" if step.requires else ""
            say(f"  {step.phase:16} {step.id:20} {step.module_ref}{needs}{' (optional)' if step.optional else ''}")
        for key, origin in sorted((plan.sync_env or {}).items()):
            say(f"  secret           {key} from {origin}")

    def tell(self, event: str, body: Mapping[str, Any]) -> None:
        """One thing that happened."""
        if self._as_json:
            self._json(event, {**body, **({"approve_with": self.command(body)} if event == "request" else {})})
        else:
            told = getattr(self, f"_{event}", None)
            if told is not None:
                told(body)

    def command(self, request: Mapping[str, Any]) -> str:
        """Exactly what an approver types."""
        words = ["hyops", "approval", "grant", str(request["dispatch_id"]), "--key", "YOUR_SSH_KEY"]
        if self._approval_config != Path(DEFAULT_CONFIG):
            words += ["--config", str(self._approval_config)]
        for warning in request.get("warnings", []):
            words += ["--acknowledge", str(warning)]
        return shlex.join(words)

    def _json(self, event: str, body: Mapping[str, Any]) -> None:
        click.echo(json.dumps({"event": event, **body}, ensure_ascii=False))

    def _preflight(self, body: Mapping[str, Any]) -> None:
        for finding in body["findings"]:
            say(f"  {finding['state']:8} {finding['check']:9} {finding['detail']}")

    def _secrets(self, body: Mapping[str, Any]) -> None:
        counts = ", ".join(f"{len(body[word])} {word}" for word in ("added", "replaced", "same", "removed"))
        say(f"secrets refreshed from {body['source']} in {body['elapsed_s']:.2f} s: {counts}")

    def _bootstrap(self, body: Mapping[str, Any]) -> None:
        say(f"runner {body['runner_ref']} is not standing: {shlex.join(body['command'])}")

    def _decision(self, body: Mapping[str, Any]) -> None:
        say(f"decision {body['decision_id']}")

    def _request(self, body: Mapping[str, Any]) -> None:
        say(f"request  {body['dispatch_id']}, open until {body['expires_at']}")
        for warning in body.get("warnings", []):
            say(f"  WARNING {warning}")
        say(f"  approve: {self.command(body)}")
        say("  waiting; Ctrl-C ends the waiting, not the request")

    def _execution(self, body: Mapping[str, Any]) -> None:
        by = ", ".join(body.get("approved_by", [])) or "nobody: the route needs nobody"
        say(f"approved by {by} ({body['mode']}); run {body['run_id']}")

    def _event(self, body: Mapping[str, Any]) -> None:
        from hyops.cli.run_view import RunView
        from hyops.ports.transport import RunEvent

        if self._view is None:
            self._view = RunView("")
        line = self._view.take(RunEvent(body["stream"], body["offset"], body["body"]))
        if line is not None:
            say(line)

    def _link(self, body: Mapping[str, Any]) -> None:
        say(f"the link is lost ({body['message']}); the run goes on", err=True)

    def _hindered(self, body: Mapping[str, Any]) -> None:
        say(f"{body['word']}: {body['message']}; it is tried again; next: {body['hint']}", err=True)

    def _evidence(self, body: Mapping[str, Any]) -> None:
        say(f"evidence: {body['message']}; the executor makes it later", err=True)

    def _record(self, body: Mapping[str, Any]) -> None:
        say(f"{body['message']}; next: {body['hint']}", err=True)

    def _outcome(self, body: Mapping[str, Any]) -> None:
        reason = f": {body['reason']}" if body.get("reason") else ""
        say(f"{body['outcome']}{reason}", f"{body['run_id']}; evidence in {body['evidence']}")

"""What a person sees of a run: folded from its events, drawn as a table that moves or as plain lines. Pure (UX-2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hyops.ports.transport import RunEvent

if TYPE_CHECKING:
    from rich.console import RenderableType

LOG_LINES = 6
MARKS = {
    "waiting": ("·", "dim"),
    "running": ("▶", "bold cyan"),
    "succeeded": ("✔", "green"),
    "no change": ("✔", "green"),
    "failed": ("✘", "bold red"),
    "refused": ("✘", "bold yellow"),
    "cancelled": ("■", "yellow"),
    "unknown": ("?", "bold magenta"),
    "not run": ("–", "dim"),
}
HEADLINES = {
    "succeeded": ("DONE", "bold green"),
    "failed": ("FAILED", "bold red"),
    "refused": ("REFUSED, nothing was touched", "bold yellow"),
    "cancelled": ("CANCELLED", "bold yellow"),
    "unknown": ("UNKNOWN: look before you retry", "bold magenta"),
}


@dataclass
class Line:
    """One step as it is shown."""

    step: str
    phase: str
    title: str
    state: str = "waiting"
    since: float = 0.0
    elapsed_s: float | None = None
    note: str = ""


@dataclass
class RunView:
    """The run, as far as its events told. `t` is seconds of the run's life on the runner's clock."""

    run_id: str
    head: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    opened_at: datetime | None = None
    t: float = 0.0
    generation: int | None = None
    endpoint: dict[str, Any] = field(default_factory=dict)
    outcome: str | None = None
    reason: str | None = None
    exit_code: int | None = None
    link: str = ""

    def take(self, event: RunEvent) -> str | None:
        """Fold one event in; returns the plain line that tells it, if it is worth one."""
        if event.stream == "log":
            self.log = [*self.log, str(event.body.get("line", ""))][-LOG_LINES:]
            return None
        if event.stream == "end":
            return None
        body = event.body.get("body", {})
        self.t = float(event.body.get("t", 0.0))
        told = getattr(self, "_" + str(event.body.get("kind")).replace("-", "_"), self._other)(event, body)
        return None if told is None else f"{str(event.body.get('at', ''))[11:19]} +{self.t:7.3f}s  {told}"

    @property
    def closed(self) -> bool:
        """Whether the run has ended."""
        return self.outcome is not None

    def _run_opened(self, event: RunEvent, body: dict[str, Any]) -> str:
        self.head, self.generation = body, body.get("generation")
        self.opened_at = datetime.fromisoformat(str(event.body["at"]))
        for step in body.get("steps", []):
            title = str(step.get("title") or step.get("module_ref", "")) + (
                " (optional)" if step.get("optional") else ""
            )
            self.lines[step["id"]] = Line(step["id"], str(step.get("phase", "")), title)
        plane = (body.get("access") or {}).get("plane")
        by = f" by {plane}" if plane else ""
        return f"opened on {body.get('runner_ref')}{by}, service {body.get('service')}, generation {self.generation}"

    def _resumed(self, event: RunEvent, body: dict[str, Any]) -> str:
        return "resumed by a new process: what was under way is asked for first"

    def _reopened(self, event: RunEvent, body: dict[str, Any]) -> str:
        self.outcome = self.reason = self.exit_code = None
        who, why = body.get("by") or "nobody named", body.get("reason")
        return f"goes on after its end, asked for by {who}" + (f": {why}" if why else "")

    def _intent(self, event: RunEvent, body: dict[str, Any]) -> str:
        line = self._line(body)
        line.state, line.since, line.note = "running", self.t, ""
        return f"▶ {line.step}: {line.title}"

    def _outcome(self, event: RunEvent, body: dict[str, Any]) -> str:
        line = self._line(body)
        line.state = str(body.get("outcome"))
        if line.state == "succeeded" and not body.get("changed", True):
            line.state = "no change"
        line.elapsed_s, line.note = float(body.get("elapsed_s", 0.0)), str(body.get("reason") or "")
        outputs = body.get("outputs", {})
        self.generation = outputs.get("generation_after", self.generation)
        if isinstance(outputs.get("endpoint"), dict):
            self.endpoint = outputs["endpoint"]
        mark = MARKS.get(line.state, ("?", ""))[0]
        return f"{mark} {line.step}: {line.state} in {line.elapsed_s:.3f} s" + (f": {line.note}" if line.note else "")

    def _note(self, event: RunEvent, body: dict[str, Any]) -> str | None:
        if body.get("again"):
            line = self._line(body)
            line.state, line.note = "waiting", f"again: {body.get('reason')}"
            return f"· {line.step}: {line.note}"
        if "cancel" in body:
            return f"■ cancelling: {body['cancel']}"
        faults = [*body.get("faults", []), *body.get("optional_faults", [])]
        return f"preflight {body.get('preflight')}" + (f": {'; '.join(faults)}" if faults else "")

    def _run_closed(self, event: RunEvent, body: dict[str, Any]) -> str:
        self.outcome, self.reason = str(body.get("outcome")), body.get("reason")
        self.exit_code = int(body.get("exit_code", 30))
        for line in self.lines.values():
            line.state = "not run" if line.state == "waiting" else line.state
        return f"{HEADLINES.get(self.outcome, (self.outcome, ''))[0]}" + (f": {self.reason}" if self.reason else "")

    def _other(self, event: RunEvent, body: dict[str, Any]) -> None:
        return None

    def _line(self, body: dict[str, Any]) -> Line:
        step = str(body.get("step"))
        return self.lines.setdefault(step, Line(step, "", str(body.get("module_ref", ""))))

    def draw(self, now_t: float) -> RenderableType:
        """The picture at `now_t` seconds of the run's life."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 1), show_header=False, expand=True)
        table.add_column(width=1)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(justify="right", no_wrap=True, width=9)
        table.add_column(ratio=1)
        phase = ""
        for line in self.lines.values():
            mark, style = MARKS.get(line.state, ("?", "bold magenta"))
            elapsed = now_t - line.since if line.state == "running" else line.elapsed_s
            shown = "" if elapsed is None else f"{max(elapsed, 0.0):.2f} s"
            tell = line.note or line.title
            again = line.phase == phase
            told = Text(tell, style if line.note else "dim")
            table.add_row(
                Text(mark, style), Text("" if again else line.phase, "dim"), Text(line.step, style), shown, told
            )
            phase = line.phase
        parts: list[RenderableType] = [self._headline(now_t), Text(), table]
        if self.log:
            parts += [Text(), Text("\n".join(self.log), style="dim", overflow="ellipsis", no_wrap=True)]
        if self.link:
            parts += [Text(), Text(self.link, style="bold yellow")]
        border = HEADLINES[self.outcome][1] if self.outcome in HEADLINES else "cyan"
        return Panel(Group(*parts, *self._ending()), title=Text(self.run_id), border_style=border, padding=(1, 2))

    def _headline(self, now_t: float) -> RenderableType:
        from rich.text import Text

        if not self.head:
            return Text("waiting for the runner's first word", "dim")
        text = Text()
        text.append(f"{self.head.get('service', '?')}  ", "bold")
        text.append(f"{self.head.get('occasion', '')} {self.head.get('decision_type', '')}  ".strip() + "  ")
        text.append(f"{self.head.get('blueprint_ref', '')} on {self.head.get('runner_ref', '?')}  ", "dim")
        before = self.head.get("generation")
        text.append(
            f"generation {before}" + (f" → {self.generation}" if self.generation != before else ""), "bold cyan"
        )
        text.append(f"  {self.t if self.closed else max(now_t, self.t):.1f} s", "bold")
        return text

    def _ending(self) -> list[RenderableType]:
        from rich.text import Text

        if self.outcome is None:
            return []
        word, style = HEADLINES.get(self.outcome, (self.outcome, "bold"))
        found: list[RenderableType] = [Text(), Text(word, style)]
        if self.reason:
            found.append(Text(self.reason))
        if self.endpoint:
            found.append(Text(_endpoint_line(self.endpoint), "dim"))
        return found


def _endpoint_line(endpoint: dict[str, Any]) -> str:
    """`pg.example -> db2 (10.0.0.2:5432)`, with what is missing left out."""
    target, port = endpoint.get("endpoint_target", "?"), endpoint.get("endpoint_port")
    address = f"{target}:{port}" if port else str(target)
    return f"{endpoint.get('endpoint_dns_name', 'endpoint')} -> {endpoint.get('endpoint_host', '?')} ({address})"

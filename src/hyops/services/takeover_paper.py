"""What is carried between a runner and approvers when there is no network between them: requests out, signatures in.

Nothing on such a paper is believed because of where it came from: a request is what people look at and sign, and a
signature is verified over exactly the request that lies on the runner (APR-1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from hyops.errors import NotApprovedError, RecordError, UnsafePlanError
from hyops.model import canonical, words
from hyops.model.approval import Approval, ApprovalStatement
from hyops.model.takeover import StandbyOrder
from hyops.services.typed_words import refuse_unwritable

PAPER_MAX = 64 * 1024


@dataclass(frozen=True)
class Paper:
    """One file: an approval; or the statement that `ssh-keygen` signed, with the signature that lay beside it."""

    name: str
    data: bytes
    signature: bytes | None = None


def paper_at(path: Path) -> Paper:
    """Read one file, and `FILE.sig` beside it if there is one.

    Raises:
        NotApprovedError: it cannot be read, or is too large to be one.
    """
    beside = path.with_name(path.name + ".sig")
    try:
        return Paper(str(path), _read(path), _read(beside) if beside.exists() else None)
    except OSError as exc:
        raise NotApprovedError(f"approval {path}: {exc.strerror}", hint="name a file that the approver sent") from exc


def approval_of(paper: Paper) -> Approval:
    """The approval on a paper, unverified.

    Raises:
        NotApprovedError: it is empty or anything else; names the file.
    """
    try:
        value = canonical.parse(paper.data, source=paper.name)
        if isinstance(value, dict) and "statement" in value:
            return Approval.of(value, source=paper.name)
        statement = ApprovalStatement.of(value, source=paper.name)
    except RecordError as exc:
        raise NotApprovedError(
            f"approval {exc.message}", hint="have it sent again, as the approver's tool wrote it"
        ) from exc
    if paper.signature is None:
        raise NotApprovedError(
            f"approval {paper.name}: a statement without its signature",
            hint=f"bring {paper.name}.sig, which `ssh-keygen -Y sign` wrote, and lay it beside it",
        )
    if statement.signed_bytes() != paper.data.strip():
        raise NotApprovedError(f"approval {paper.name}: not in the form that is signed; it was edited")
    return signed(statement, paper.signature.decode(errors="replace"))


def statement_for(
    order: StandbyOrder,
    *,
    approver: str,
    now: datetime,
    valid_s: float,
    verdict: Literal["grant", "break-glass"] = "grant",
    accepted_loss: str | None = None,
    note: str | None = None,
) -> ApprovalStatement:
    """What an approver signs: this request, this plan, for `valid_s` seconds and no longer than the order stands.

    Raises:
        UsageError: a name or a text is left out, endless, or no text. NotApprovedError: the order has expired.
        UnsafePlanError: the plan in it is not the request's.
    """
    request = order.request
    typed = (("the approver's name", approver, 256), ("--accepted-loss", accepted_loss, 4096), ("--note", note, 4096))
    for option, text, most in typed:
        if text is not None:
            refuse_unwritable(option, text, most)
    if request.expires_at <= now:
        raise NotApprovedError(
            f"order {order.order_id} expired at {request.expires_at:%Y-%m-%dT%H:%M:%SZ}, and here it is "
            f"{now:%Y-%m-%dT%H:%M:%SZ}: nobody's word makes it run",
            hint="is that the time? Else set this host's clock; `hyops takeover list` shows orders that still stand",
        )
    if request.plan_digest != order.plan.digest():
        raise UnsafePlanError(f"order {order.order_id}: the plan in it is not the one that its request names")
    return ApprovalStatement(
        verdict=verdict,
        approver=approver,
        signed_at=now,
        expires_at=min(now + timedelta(seconds=valid_s), request.expires_at),
        plan_digest=request.plan_digest,
        dispatch_id=request.dispatch_id,
        request_digest=request.digest(),
        service=request.service,
        acknowledged_warnings=request.warnings,
        accepted_loss=accepted_loss,
        note=note,
    )


def granted(statement: ApprovalStatement, sign: Callable[[bytes], str]) -> Approval:
    """The approval, signed by whatever holds the person's key."""
    return signed(statement, sign(statement.signed_bytes()))


def signed(statement: ApprovalStatement, signature: str) -> Approval:
    """The same statement of the same person is the same approval, wherever it was put together."""
    return Approval.signed(statement, signature)


def shown(order: StandbyOrder) -> Sequence[str]:
    """What a person reads before signing, line by line; no text of the order speaks to the terminal."""
    request, plan = order.request, order.plan
    lines = [
        f"order     {order.order_id}",
        f"service   {request.service}, generation {request.generation}: {request.decision_type} ({request.occasion})",
        f"why       {request.rationale}",
        f"runs      {plan.blueprint_ref} for env {plan.env} on {plan.runner_ref}, over {plan.execution_plane}",
        f"from      {_host(plan.inputs.get('source'))} to {_host(plan.inputs.get('target'))}",
        f"until     {request.expires_at:%Y-%m-%d %H:%M} UTC",
        f"request   {request.digest()}",
        f"plan      {plan.digest()}",
        *(f"warning   {warning}" for warning in request.warnings),
    ]
    for number, step in enumerate(plan.steps, start=1):
        after = f"  after {', '.join(step.requires)}" if step.requires else ""
        lines.append(f"  {number:2}. {step.id:20} {step.module_ref} [{step.phase}]{after}")
    return [words.shown(line) for line in lines]


def _host(value: object) -> str:
    return str(value.get("host")) if isinstance(value, dict) else str(value)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(PAPER_MAX + 1)
    if len(data) > PAPER_MAX:
        raise NotApprovedError(f"approval {path}: more than {PAPER_MAX} bytes")
    return data

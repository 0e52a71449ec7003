"""Holds and latches, from the decision service's own file, and what the executor hears of them (see `compose`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyops.compose import record_store

if TYPE_CHECKING:
    from typing import Any

    from hyops.model.observed import Hold, Latch
    from hyops.model.policy import ServicePolicy
    from hyops.ports.clock import Clock
    from hyops.ports.signer import ApprovalVerifier, Signer, Verifier
    from hyops.services.config import DecisionConfig, Homes, People, Protected
    from hyops.services.config_execution import ExecutionConfig
    from hyops.services.hold_desk import HoldDesk
    from hyops.services.holds import HoldBook
    from hyops.services.last_look import LastLook


def people_of(people: People | None) -> ApprovalVerifier | None:
    """Whose signatures count; None where nobody's do."""
    from hyops.adapters.approval_ssh import SshApprovalVerifier

    if people is None:
        return None
    return SshApprovalVerifier(
        allowed_signers=Path(people.allowed_signers),
        approvers=Path(people.approvers),
        revoked=Path(people.revoked_signers) if people.revoked_signers else None,
    )


def hold_book(
    homes: Homes, policy: ServicePolicy, people: People | None, clock: Clock, *, signer: Signer | None = None
) -> HoldBook:
    """The holds of one service. `signer`: the service's own, which logs and refuses what is without effect."""
    from hyops.services.holds import HoldBook

    store, refusals = record_store(homes.decision, "holds"), record_store(homes.decision, "refusals")
    return HoldBook(
        store,
        policy,
        people=people_of(people),
        clock=clock,
        refusals=refusals,
        signer=signer,
        tell=signer is not None,
    )


def hold_now(config: DecisionConfig, policy: ServicePolicy) -> Hold | None:
    """The hold that binds the loop at this moment."""
    from hyops.adapters.clock_system import SystemClock

    book = hold_book(config.homes, policy, config.people, SystemClock())
    book.refresh()
    return book.hold_now()


def looked_last(config: ExecutionConfig, clock: Clock, *, tell: bool = False) -> dict[str, Any]:
    """What an executor needs to hear of holds and noes (`LastLook`), for `ExecutionStage`; nothing without `people`.

    `tell`: log that it cannot, as the service does.
    """
    from hyops.services.holds import HoldBook
    from hyops.services.loop import log

    if (people := people_of(config.people)) is None:
        if tell:
            why = "people: absent: a hold stops nothing that was decided before it, a no nothing that was approved"
            log("holds and noes not looked at", message=why, next="name `people` as the decision service's file does")
        return {}
    store, refusals = (record_store(config.homes.decision, kind) for kind in ("holds", "refusals"))
    books = {}
    for policy in [protected.policy for protected in config.protected]:
        books[policy.service] = HoldBook(store, policy, people=people, clock=clock, refusals=refusals, tell=False)
    return {"people": people, "holds": books}


def last_look(config: ExecutionConfig, verifier: Verifier) -> LastLook:
    """The executor's last look, for a command that tells of it."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.model.approval import Approval
    from hyops.model.decision import Decision
    from hyops.services.inbox import Inbox
    from hyops.services.last_look import LastLook

    homes, clock = config.homes, SystemClock()
    approvals = Inbox(record_store(homes.approval, "approvals"), Approval, verifier, role=None)
    decided = record_store(homes.decision, "records")
    decisions = Inbox(decided, Decision, verifier, role="decision", unsigned_allowed=True)
    approvals.refresh()
    decisions.refresh()
    return LastLook(approvals, decisions, clock=clock, **{"people": None, "holds": {}, **looked_last(config, clock)})


def hold_desk(config_file: Path, service: str) -> HoldDesk:
    """What `hyops hold` works on.

    Raises:
        ConfigError: the file is about another service, or says nobody whose signature counts.
    """
    from hyops.errors import UsageError

    config = _config(config_file)
    if (protected := config.about(service)) is None:
        about = ", ".join(one.policy.service for one in config.protected[:20])
        raise UsageError(f"{config_file} is about {about}, not {service}", hint="name its file with --config")
    return _desk(config_file, config, protected)


def hold_desks(config_file: Path) -> list[HoldDesk]:
    """The desks of every service that the file is about; raises as `hold_desk`."""
    config = _config(config_file)
    return [_desk(config_file, config, protected) for protected in config.protected]


def _desk(config_file: Path, config: DecisionConfig, protected: Protected) -> HoldDesk:
    from hyops.adapters.clock_system import SystemClock
    from hyops.errors import ConfigError
    from hyops.services.hold_desk import HoldDesk

    people = people_of(config.people)
    if people is None:
        service = protected.policy.service
        raise ConfigError(
            f"{config_file}: people: absent, so nobody can hold {service}",
            hint="name allowed_signers and approvers there, as the approval stage's file does",
        )
    return HoldDesk(
        record_store(config.homes.decision, "holds"),
        protected.policy,
        people=people,
        refusals=record_store(config.homes.decision, "refusals"),
        latch=lambda book: _latch(config, protected, book),
        clock=SystemClock(),
    )


def principal_of(config_file: Path, key: Path) -> str:
    """Whom the allowed signers file gives a key."""
    from hyops.adapters.approval_ssh import principal_of as principal
    from hyops.errors import ConfigError

    people = _config(config_file).people
    if people is None:
        raise ConfigError(f"{config_file}: people: absent", hint="name allowed_signers and approvers there")
    return principal(key, Path(people.allowed_signers))


def _config(config_file: Path) -> DecisionConfig:
    from hyops.errors import ConfigError
    from hyops.services.config import DecisionConfig

    try:
        return DecisionConfig.read(config_file.read_bytes(), source=str(config_file))
    except OSError as exc:
        raise ConfigError(f"{config_file}: {exc.strerror}", hint="name the configuration with --config") from exc


def _latch(config: DecisionConfig, protected: Protected, book: HoldBook) -> Latch | None:
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.services.overview import latch_from

    homes = config.homes
    return latch_from(
        protected.policy,
        protected.initial_generation,
        decisions=record_store(homes.decision, "records"),
        attempts=record_store(homes.execution, "attempts"),
        outcomes=record_store(homes.execution, "outcomes"),
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
        acknowledged=book.acknowledged,
    )

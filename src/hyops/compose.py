"""The `compose*` modules are the only ones that know which adapter serves which port: one for each role, and here what
they share. Every import is made by the function that needs it, so that a process loads what it runs and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.model.policy import Lease
    from hyops.ports.lease import LeaseStore
    from hyops.ports.records import RecordStore
    from hyops.ports.signer import ApprovalVerifier
    from hyops.services.config_requests import ApprovalConfig


def record_store(home: str, kind: str) -> RecordStore:
    """The records of one kind of the stage whose home it is: below it, or where its configuration says.

    Raises:
        PrerequisiteError: they are somewhere else by now. ConfigError: a file that is named for etcd is not usable.
    """
    from hyops.services.config import Home

    if isinstance(home, Home) and home.store is not None:
        from hyops.compose_store import etcd_records

        return etcd_records(home.store, home.stage, kind)
    from hyops.adapters.store_files import FileRecordStore
    from hyops.adapters.store_moved import refuse_moved

    refuse_moved(Path(home) / "state")
    return FileRecordStore(Path(home) / "state" / kind)


def lease_store(lease: Lease) -> LeaseStore:
    """The quorum store of a service."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.etcd import EtcdLeaseStore
    from hyops.adapters.etcd_access import gateway_of

    return EtcdLeaseStore(gateway_of(lease.endpoints, lease), SystemClock())


def approval_verifier(config: ApprovalConfig) -> ApprovalVerifier:
    """Whose approvals count, from the approval stage's own file."""
    from hyops.adapters.approval_ssh import SshApprovalVerifier

    return SshApprovalVerifier(
        allowed_signers=Path(config.allowed_signers),
        approvers=Path(config.approvers),
        revoked=Path(config.revoked_signers) if config.revoked_signers else None,
    )

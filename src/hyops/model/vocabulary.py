"""The closed sets of SPEC section 2; an unknown value is refused with its path, never mapped silently."""

from __future__ import annotations

from enum import StrEnum


class DecisionType(StrEnum):
    """What should be done (VOC-1)."""

    BURST = "burst"
    FAILOVER = "failover"
    FAILBACK = "failback"
    HOLD = "hold"


SPELLINGS = {"cutover": DecisionType.FAILOVER, "failback_onprem": DecisionType.FAILBACK}
"""Words of older records that are read, and kept in `source_decision_type` (VOC-1)."""


class Level(StrEnum):
    """How much a decision may cause by itself (VOC-4)."""

    MONITOR = "monitor"
    RECOMMEND = "recommend"
    TRIGGER = "trigger"


class TargetCloud(StrEnum):
    """Where the service goes; `none` is on-prem or no target (VOC-2)."""

    GCP = "gcp"
    AZURE = "azure"
    AWS = "aws"
    NONE = "none"


class DrMode(StrEnum):
    """How the database comes back (VOC-2)."""

    RESTORE = "restore"
    WARM_PROMOTE = "warm_promote"
    MANAGED_PROMOTE = "managed_promote"
    DENY = "deny"


class ExecutionPlane(StrEnum):
    """How targets are reached from the runner (VOC-3)."""

    RUNNER_LOCAL = "runner-local"
    PRIVATE_OVERLAY = "private-overlay"
    BASTION_EXPLICIT = "bastion-explicit"
    GCP_IAP = "gcp-iap"
    PUBLIC_EPHEMERAL = "public-ephemeral"


class CheckStatus(StrEnum):
    """A check is three-valued; `unknown` never causes an action (INV-5)."""

    OK = "ok"
    BAD = "bad"
    UNKNOWN = "unknown"


CHECK_SPELLINGS = {
    "degraded": CheckStatus.BAD,
    "failed": CheckStatus.BAD,
    "failing": CheckStatus.BAD,
    "healthy": CheckStatus.OK,
    "ready": CheckStatus.OK,
}
"""Words of hand-written records for a check's status; any other word is refused."""


class RequestStatus(StrEnum):
    """Where a dispatch request stands (DSP-2)."""

    AWAITING_APPROVAL = "awaiting-approval"
    QUEUED = "queued"
    DENIED = "denied"
    EXPIRED = "expired"


class Outcome(StrEnum):
    """How an attempt or a step ended; `unknown` is neither success nor failure (VOC-5)."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class ReceiptClass(StrEnum):
    """What proves a fence, strongest first (FEN-1)."""

    OBSERVED = "observed"
    POWERED_OFF = "powered-off"
    LEASE_EXPIRED = "lease-expired"
    ATTESTED = "attested"
    BREAK_GLASS = "break-glass"


class Phase(StrEnum):
    """The order of a recovery (GATE-2)."""

    DECIDE = "decide"
    APPROVE = "approve"
    VALIDATE_ACCESS = "validate-access"
    PREPARE = "prepare"
    DATA = "data"
    SECRETS = "secrets"
    WORKLOADS = "workloads"
    TRAFFIC = "traffic"
    BACKUP = "backup"
    EVIDENCE = "evidence"


class SecretOrigin(StrEnum):
    """Whose value a run gets for a key (RUN-8): the environment's vault cache, or the shell of whoever deploys."""

    VAULT = "vault"
    OPERATOR = "operator"


class Condition(StrEnum):
    """When alone a record may be acted on. One without a condition takes the way of the loop."""

    TAKEOVER = "takeover"


class Direction(StrEnum):
    """Which way a burst goes: `out` adds capacity, `in` gives it back."""

    OUT = "out"
    IN = "in"


class CutoverMode(StrEnum):
    """How traffic moves once the target is verified (DEC-1a)."""

    AUTOMATIC = "automatic"
    MANUAL_GATE = "manual-gate"
    NONE = "none"


class Occasion(StrEnum):
    """Why a switch is made: it changes nothing in the plan's bytes but what the old primary is asked first."""

    UNPLANNED = "unplanned"
    PLANNED = "planned"

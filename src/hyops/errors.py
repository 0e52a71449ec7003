"""The tree of everything that can go wrong, with exit codes and what was touched.

Rules kept here: a class exists where an operator would do something different; facts are fields; `effect` says
what the world looks like after the error (SPEC UX-1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import ClassVar


class Effect(StrEnum):
    """What an error left behind: `none` is safe to retry, `unknown` must be looked at first."""

    NONE = "none"
    PARTIAL = "partial"
    UNKNOWN = "unknown"


class HyopsError(Exception):
    """Root of the tree. `hint` says what to do next; `facts` are shown and go into JSON."""

    exit_code: ClassVar[int] = 30
    effect: Effect = Effect.UNKNOWN
    hint: str = "this is a bug in hyops: report it with the evidence folder"

    def __init__(self, message: str, *, hint: str | None = None, effect: Effect | None = None, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        if hint is not None:
            self.hint = hint
        if effect is not None:
            self.effect = effect

    def as_json(self) -> dict[str, object]:
        """The error as programs read it (`--json`)."""
        return {
            "error": type(self).__name__,
            "message": self.message,
            "exit_code": self.exit_code,
            "effect": str(self.effect),
            "hint": self.hint,
            "facts": {key: str(value) for key, value in self.facts.items()},
        }


@contextmanager
def foreign() -> Iterator[None]:
    """Call what is not ours (a driver, what stands behind a port): nothing but a HyopsError comes out.

    An error that the port does not know becomes one of exit code 30 that names it, its effect unknown. A cancelled task
    and an interrupted process are no errors, and pass.
    """
    try:
        yield
    except HyopsError:
        raise
    except Exception as exc:
        raise HyopsError(f"{type(exc).__name__}: {exc}") from exc


def unforeseen(error: HyopsError) -> bool:
    """Whether `foreign` made it of an error that nobody foresaw, and that is not this host's (no room, no memory)."""
    cause = error.__cause__
    known = cause is None or isinstance(cause, HyopsError) or of_this_host(error)
    return type(error) is HyopsError and not known


def of_this_host(error: HyopsError) -> bool:
    """Whether it is about what this host has not now (a file, room, memory): no reason to close what was asked for."""
    return isinstance(error, PrerequisiteError) or isinstance(error.__cause__, OSError | MemoryError)


class UsageError(HyopsError):
    """The command line was wrong; nothing was looked at."""

    exit_code, effect, hint = 2, Effect.NONE, "see --help"


class RefusedError(HyopsError):
    """Base of refusals before any effect (exit codes 10 to 19)."""

    exit_code, effect = 12, Effect.NONE


class ConfigError(RefusedError):
    """A file that a person wrote is wrong; the message names file, line and key."""

    exit_code, hint = 11, "mend the named key; `hyops schema show` prints what is allowed"


class RecordError(ConfigError):
    """A record is unreadable, damaged, unsigned or of an unknown shape."""

    hint = "the file was left as it is: see that it is the one you mean; `hyops schema show` prints a good one's shape"


class PrerequisiteError(RefusedError):
    """Something the run needs is not there (tool, disk, access mode, capability)."""

    exit_code, hint = 12, "provide what the message names, then run preflight again"


class StoreLostError(PrerequisiteError):
    """The store of the records has no quorum: nothing is known, decided or created until it has one again."""


class DiskFullError(PrerequisiteError):
    """A runner's disk takes nothing more (full, over quota, read-only); what was asked for has not begun."""

    hint = "make room on that disk: `hyops runner gc` removes what may go; a run that lies there is then tried again"


class RunnerBusyError(PrerequisiteError):
    """As many runs are open on the runner as it takes at once; this one has not begun, and is tried again."""

    hint = "nothing to do: the executor tries again by itself; `hyops runner jobs` shows what is open there"


class GivesWayError(RefusedError):
    """An unplanned move of the service was asked for before a burst had begun: the burst was not sent, and never is."""

    hint = "nothing to do: the move goes first; when pressure stands after it, a new burst is decided"


class HeldError(HyopsError):
    """Nothing may be sent for now, for the service is held: nothing was, and it is tried again until it expires."""

    exit_code, effect = 12, Effect.NONE
    hint = "nothing to do: it goes on when the hold ends (`hyops hold list`); `hyops approval reject` ends it for good"


class ProtocolError(PrerequisiteError):
    """The two sides of a dispatch have hyops versions without a protocol in common; nothing was staged or started."""

    hint = "upgrade hyops on the older side; the message names both"


class NotApprovedError(RefusedError):
    """No valid approval for these exact bytes."""

    exit_code, hint = 13, "`hyops approval show` prints what is missing"


class NotFencedError(RefusedError):
    """Promotion refused: nothing proves that the old primary has stopped taking writes."""

    exit_code, hint = 14, "fence it, or attach evidence that it is powered off"


class StaleGenerationError(RefusedError):
    """The actor's generation, lease or epoch is older than what the resource has seen."""

    exit_code, hint = 15, "another run moved this service on; look at `hyops status` before planning again"


class DialLostError(HyopsError):
    """Another executor may dial for the attempt by now: this one stopped, and closes nothing.

    It is no refusal: what the runner has or does is the other one's to find out.
    """

    exit_code, effect = 15, Effect.UNKNOWN
    hint = "nothing is to be done: whoever has the right goes on; `hyops control status` says who that is"


class NotNotedError(HyopsError):
    """What has to be remembered before a start cannot be written now: nothing was sent, and it is tried again."""

    exit_code, effect, hint = 12, Effect.NONE, "mend what the message names; the executor goes on by itself"


class UnsafePlanError(RefusedError):
    """The plan is unsafe, or is not the one that was approved."""

    exit_code, hint = 16, "plan again and have the new digest approved"


class MissingRecordError(UnsafePlanError):
    """A record on which an execution rests is missing, damaged or not believed on this host."""

    hint = "bring back what is named, or see that this executor trusts the key that signed it"


class UnsafePolicyError(RefusedError):
    """A policy that may lead to something unsafe: it was not put to work."""

    exit_code = 16
    hint = (
        "mend the policy (`hyops policy check` shows with which input it fails), or set `level: monitor`, or name "
        "the finding and a reason in accepted_findings"
    )


class FailedError(HyopsError):
    """Base of failures under way (exit codes 20 to 29)."""

    exit_code, effect = 20, Effect.PARTIAL
    hint = "`hyops run show` tells which steps have an outcome, and `hyops run resume` continues or says why not"


class TargetError(FailedError):
    """A target (database, DNS, host) answered with an error or did something else than asked."""


class AgentLostError(TargetError):
    """A fence agent was gone, or went while it was asked: asked again, it says the same. `reached`: its host was."""

    effect = Effect.UNKNOWN
    hint = "`systemctl status` of the fence agent on that host; then `hyops run resume`"
    reached: bool = True


class SecretsError(FailedError):
    """The secret authority or the vault cache failed; the cache is as it was."""

    exit_code = 21


class RunnerUnreachableError(FailedError):
    """The runner cannot be reached or spoke nonsense; its job, if any, goes on without us."""

    exit_code, effect, hint = 22, Effect.UNKNOWN, "`hyops run follow` attaches again when the link is back"


class RunnerAbsentError(RunnerUnreachableError):
    """The host answers, and says itself that no runner stands there."""

    effect, hint = Effect.NONE, "make the runner: `hyops runner bootstrap`; nothing was asked of it"


class HostKeyError(RefusedError):
    """The host key is unknown or changed: nothing was sent."""

    exit_code, hint = 12, "verify the key out of band, then `hyops runner` pin it; never accept it blindly"


class DeadlineError(FailedError):
    """A limit on time was reached."""

    exit_code, effect = 23, Effect.UNKNOWN


class CancelledRunError(HyopsError):
    """Somebody cancelled the run."""

    exit_code, effect, hint = 130, Effect.PARTIAL, "`hyops run show` tells what was done before"


class NotVerifiedError(HyopsError):
    """It was done, but the check afterwards did not confirm it."""

    exit_code, effect, hint = 40, Effect.PARTIAL, "look at the named check; nothing is undone by itself"


class EvidenceError(HyopsError):
    """It was done, but the evidence is missing, damaged or does not verify."""

    exit_code, effect, hint = 41, Effect.NONE, "the first bad record is named; fetch the runner's journal again"

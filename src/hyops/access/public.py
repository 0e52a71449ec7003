"""`public-ephemeral`: a way in for a drill or a broken glass, from one source, for a while, proved gone (ACC-1).

Three records of one grant: `opening` before the rule is made, `open` after it, `removed` after a probe from outside
failed to get in. A crash in between leaves the rule's own expiry and a record that is cleaned by its id.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from hyops.access.circumstances import Circumstances, Target
from hyops.access.mode import AccessMode, NotHeldError, Prerequisite, said
from hyops.errors import NotVerifiedError, PrerequisiteError, RefusedError, UnsafePlanError
from hyops.model.access import OPEN_MAX_S, AccessGrant, AccessOptions, PublicAccess, restricted
from hyops.model.vocabulary import ExecutionPlane
from hyops.ports.access import AccessProbes, EphemeralRule, OutsideProbe, SshPlace
from hyops.ports.clock import Clock

Opens = Callable[[AccessGrant], Awaitable[AccessGrant]]
"""Asks the edge for a way, with the intent on disk before."""


class PublicEphemeral(AccessMode):
    """Over a public address that the edge opens for this run, or a person with `hyops access` before it.

    Either ends by itself. The occasion is the plan's, which people approved, and each has its own proof: the runner's
    own list of environments for drills, or a break-glass among the approvals.
    """

    plane = ExecutionPlane.PUBLIC_EPHEMERAL
    names = ("occasion-allowed", "grant-open", "target-answers")
    limits = ("the rule's source is an address: whoever can send from it gets as far as the target's sshd",)

    def __init__(
        self,
        options: AccessOptions,
        login: SshPlace,
        probes: AccessProbes,
        *,
        grants: Callable[[], Sequence[AccessGrant]],
        clock: Clock,
        opens: Opens | None = None,
    ) -> None:
        super().__init__(options, login, probes)
        self._grants, self._clock, self._opens = grants, clock, opens

    def prerequisites(self, run: Circumstances) -> Sequence[Prerequisite]:
        """Why it may be at all, then a grant for each target that is open and has not run down."""
        asked = [self._occasion(run)]
        for number, target in enumerate(run.targets):
            asked.append(self._open(run, number, target))
        return [*asked, *self.answers(run)]

    def _occasion(self, run: Circumstances) -> Prerequisite:
        named = None if run.public is None else run.public.occasion
        proved = {"drill": run.env in self.options.drill_envs, "break-glass": run.break_glass}
        why = {
            None: "the plan names no occasion",
            "drill": f"the plan is for a drill, and {run.env} is no environment for drills on this runner",
            "break-glass": "the plan is for a broken glass, and nobody broke it",
        }[named]
        held = named if named is not None and proved[named] else None
        return said("occasion-allowed", run.env, held, why, "use a private mode")

    def _open(self, run: Circumstances, number: int, target: Target) -> Prerequisite:
        async def look() -> str:
            now, opens, public = self._clock.now(), self._opens, run.public
            if opens is not None and public is not None:
                return _told(await opens(self._wanted(run, public, f"{run.run_id}-{number}", target.address)))
            for grant in self._grants():
                if grant.state == "open" and grant.address == target.address and grant.expires_at > now:
                    return _told(grant)
            raise NotHeldError(
                f"no open grant leads to {target.address}",
                "name the edge in options.access.edge, or open one there with `hyops access open`",
            )

        return Prerequisite("grant-open", target.host, look)

    def _wanted(self, run: Circumstances, public: PublicAccess, grant_id: str, address: str) -> AccessGrant:
        now = self._clock.now()
        return AccessGrant(
            grant_id=grant_id,
            state="opening",
            occasion=public.occasion,
            reason=f"{run.run_id} of {run.blueprint_ref}",
            by=run.runner_ref,
            source=public.source_ranges[0],
            address=address,
            port=self._login.port,
            opened_at=now,
            expires_at=now + timedelta(seconds=public.expires_after_s),
        )


def _told(grant: AccessGrant) -> str:
    return f"{grant.grant_id} from {grant.source} until {grant.expires_at:%Y-%m-%dT%H:%M:%SZ}"


def check_grant(grant: AccessGrant, *, looks_from: str) -> None:
    """Raises UnsafePlanError for a source that is no single place, or an end that is missing or far away.

    `looks_from` is the address that will look from outside: only from within the source can it see the way closed.
    """
    source = ipaddress.ip_network(grant.source)
    if not restricted(grant.source):
        raise UnsafePlanError(
            f"{grant.source} is no restricted source", hint="give one address, or a few of one office"
        )
    if ipaddress.ip_address(looks_from) not in source:
        raise UnsafePlanError(
            f"{looks_from}, which looks from outside, is not in {grant.source}: its look would prove nothing",
            hint="grant the vantage's own address, or configure a vantage within the source",
        )
    if not grant.opened_at < grant.expires_at <= grant.opened_at + timedelta(seconds=OPEN_MAX_S):
        raise UnsafePlanError(f"it must end within {OPEN_MAX_S:.0f} s", hint="shorten --for")
    if not grant.reason.strip():
        raise UnsafePlanError("a way in from outside needs a reason")


async def open_grant(
    grant: AccessGrant, rule: EphemeralRule, keep: Callable[[AccessGrant], None], *, looks_from: str
) -> AccessGrant:
    """Write the intent, make the rule, write that it is open.

    Raises:
        UnsafePlanError: see `check_grant`. RefusedError, FailedError: the rule was not made, or nobody knows; the
        record stays `opening` and is removed by its id.
    """
    check_grant(grant, looks_from=looks_from)
    keep(grant.model_copy(update={"state": "opening"}))
    await rule.open(
        grant.grant_id, source=grant.source, address=grant.address, port=grant.port, expires_at=grant.expires_at
    )
    opened = grant.model_copy(update={"state": "open"})
    keep(opened)
    return opened


async def remove_grant(
    grant: AccessGrant,
    rule: EphemeralRule,
    outside: OutsideProbe,
    keep: Callable[[AccessGrant], None],
    now: Callable[[], datetime],
) -> AccessGrant:
    """Remove the rule, see that it is gone, and that nobody gets in from outside; only then is it `removed`.

    Raises:
        NotVerifiedError: the rule is listed still, somebody gets in, or nobody could look: it stays `removing`.
    """
    keep(grant.model_copy(update={"state": "removing"}))
    await rule.close(grant.grant_id)
    if grant.grant_id in await rule.present():
        raise NotVerifiedError(f"grant {grant.grant_id} is listed by the edge still", hint="remove it again")
    try:
        inside = await outside.gets_in(grant.address, grant.port)
    except RefusedError as exc:
        raise NotVerifiedError(f"grant {grant.grant_id}: nobody looked from outside: {exc.message}") from exc
    if inside:
        raise NotVerifiedError(
            f"grant {grant.grant_id} is removed, and {grant.address}:{grant.port} lets somebody in from outside",
            hint="look for another rule that does",
        )
    proof = f"not listed by the edge; no connection from outside to {grant.address}:{grant.port}"
    removed = grant.model_copy(update={"state": "removed", "removed_at": now(), "proof": proof})
    keep(removed)
    return removed


def due(grants: Sequence[AccessGrant]) -> list[AccessGrant]:
    """What is to be cleaned, also what expired by itself: an expiry is no proof."""
    return [grant for grant in grants if grant.state != "removed"]


def named(grants: Sequence[AccessGrant], grant_id: str) -> AccessGrant:
    """The grant of an id."""
    for grant in grants:
        if grant.grant_id == grant_id:
            return grant
    raise PrerequisiteError(f"no grant {grant_id}", hint="`hyops access list` prints the ids")

"""`public-ephemeral`: a way in for a drill or a broken glass, from one source, for a while, proved gone (ACC-1).

Three records of one grant: `opening` before the rule is made, `open` after it, `removed` after a probe from outside
failed to get in. A crash in between leaves the rule's own expiry and a record that is cleaned by its id.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from hyops.access.circumstances import Circumstances
from hyops.access.mode import AccessMode, NotHeldError, Prerequisite, said
from hyops.errors import NotVerifiedError, PrerequisiteError, RefusedError, UnsafePlanError
from hyops.model.access import AccessGrant, AccessOptions
from hyops.model.vocabulary import ExecutionPlane
from hyops.ports.access import AccessProbes, EphemeralRule, OutsideProbe, SshPlace
from hyops.ports.clock import Clock

OPEN_MAX_S = 4 * 3600.0
PREFIX_MIN = {4: 28, 6: 124}  # a few addresses of one office or runner; a provider's range is everybody


class PublicEphemeral(AccessMode):
    """Over a public address that was opened beforehand (with `hyops access`) and ends by itself."""

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
    ) -> None:
        super().__init__(options, login, probes)
        self._grants, self._clock = grants, clock

    def prerequisites(self, run: Circumstances) -> Sequence[Prerequisite]:
        """Why it may be at all, then a grant for each target that is open and has not run down."""
        occasion = "break-glass" if run.break_glass else "drill" if run.env in self.options.drill_envs else None
        why = f"{run.env} is no environment for drills, and nobody broke the glass"
        asked = [said("occasion-allowed", run.env, occasion, why, "use a private mode")]
        for target in run.targets:
            asked.append(self._open(target.host, target.address))
        return [*asked, *self.answers(run)]

    def _open(self, host: str, address: str) -> Prerequisite:
        async def look() -> str:
            now = self._clock.now()
            for grant in self._grants():
                if grant.state == "open" and grant.address == address and grant.expires_at > now:
                    return f"{grant.grant_id} from {grant.source} until {grant.expires_at:%Y-%m-%dT%H:%M:%SZ}"
            raise NotHeldError(f"no open grant leads to {address}", "open one with `hyops access open`")

        return Prerequisite("grant-open", host, look)


def check_grant(grant: AccessGrant, *, looks_from: str) -> None:
    """Raises UnsafePlanError for a source that is no single place, or an end that is missing or far away.

    `looks_from` is the address that will look from outside: only from within the source can it see the way closed.
    """
    source = ipaddress.ip_network(grant.source)
    if source.prefixlen < PREFIX_MIN[source.version]:
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

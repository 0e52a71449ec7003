"""The two modes without a jump host: on the runner's own private network, and over a private tunnel."""

from __future__ import annotations

from collections.abc import Sequence

from hyops.access.circumstances import Circumstances, Target
from hyops.access.mode import AccessMode, NotHeldError, Prerequisite, said
from hyops.model.access import Overlay
from hyops.model.vocabulary import ExecutionPlane


class RunnerLocal(AccessMode):
    """The runner reaches its targets privately, by its own routes."""

    plane = ExecutionPlane.RUNNER_LOCAL
    names = ("address-private", "route-private", "target-answers")

    def prerequisites(self, run: Circumstances) -> Sequence[Prerequisite]:
        """Every target: a private address, a route from a private source, an answer."""
        asked: list[Prerequisite] = []
        for target in run.targets:
            asked += [private_address(self, target), self._route(target)]
        return [*asked, *self.answers(run)]

    def _route(self, target: Target) -> Prerequisite:
        async def look() -> str:
            route = await self.probes.route(target.address)
            if not self.is_private(route.source):
                raise NotHeldError(
                    f"the kernel would leave from {route.source}, which is public", "mend the runner's routes"
                )
            return f"{route.device} from {route.source}" + (f" by {route.via}" if route.via else "")

        return Prerequisite("route-private", target.host, look)


def private_address(mode: AccessMode, target: Target) -> Prerequisite:
    """The target's address lies in a private network."""
    held = target.address if mode.is_private(target.address) else None
    why = f"{target.address} is no private address"
    return said("address-private", target.host, held, why, "give the private address, or declare private_networks")


class PrivateOverlay(AccessMode):
    """Through a WireGuard tunnel that is up, and whose way does not pass the site that failed."""

    plane = ExecutionPlane.PRIVATE_OVERLAY
    names = (
        "overlay-defined",
        "hub-outside-failed-site",
        "tunnel-up",
        "endpoint-outside-failed-site",
        "address-private",
        "route-through-overlay",
        "path-outside-failed-site",
        "target-answers",
    )
    limits = (
        "a router that sends no ICMP is not seen on the path",
        "within the tunnel a router is seen only when AllowedIPs admits its address",
        "a router is placed by its address alone: site_networks must name every site's networks",
        "the way back may be another one than the way there",
    )

    def prerequisites(self, run: Circumstances) -> Sequence[Prerequisite]:
        """The definition and the hub's place first: they cost nothing and decide most."""
        overlay = self.options.overlay
        if overlay is None:
            return [
                said("overlay-defined", run.runner_ref, None, "no overlay is defined", "define options.access.overlay")
            ]
        name = overlay.interface
        asked = [said("overlay-defined", name, f"peer {overlay.peer_key} at {overlay.hub_site}", "", "")]
        outside = overlay.hub_site if overlay.hub_site != run.failed_site else None
        why = f"the overlay's hub stands in {overlay.hub_site}, the site that failed"
        asked.append(said("hub-outside-failed-site", name, outside, why, "dispatch to a runner with another overlay"))
        asked += [self._up(overlay), self._endpoint(overlay, run)]
        for target in run.targets:
            asked += [private_address(self, target), self._routed(overlay, target), self._path(overlay, target, run)]
        return [*asked, *self.answers(run)]

    def through(self, run: Circumstances) -> Sequence[str]:
        """The interface and its hub's site."""
        overlay = self.options.overlay
        return [] if overlay is None else [f"{overlay.interface} to {overlay.hub_site}"]

    def _up(self, overlay: Overlay) -> Prerequisite:
        async def look() -> str:
            found = [p for p in await self.probes.peers(overlay.interface) if p.public_key == overlay.peer_key]
            if not found:
                raise NotHeldError("the pinned peer is not on it", "see `wg show`; a changed key is verified by hand")
            age_s = found[0].handshake_age_s
            if age_s is None or age_s > overlay.handshake_age_s_max:
                told = "there was no handshake yet" if age_s is None else f"the last handshake is {age_s:.0f} s old"
                raise NotHeldError(told, "see that the hub is up and persistent-keepalive is set")
            return f"handshake {age_s:.0f} s ago with {found[0].endpoint}"

        return Prerequisite("tunnel-up", overlay.interface, look)

    def _endpoint(self, overlay: Overlay, run: Circumstances) -> Prerequisite:
        async def look() -> str:
            found = [p for p in await self.probes.peers(overlay.interface) if p.public_key == overlay.peer_key]
            endpoint = found[0].endpoint if found else None
            address = host_of(endpoint)
            if address is None:
                raise NotHeldError("the peer has no endpoint", "set the hub's Endpoint")
            await self._clear(address, overlay, run, "the tunnel's own way")
            return f"{endpoint}, in {run.site_at(address) or 'no declared site'}"

        return Prerequisite("endpoint-outside-failed-site", overlay.interface, look)

    def _routed(self, overlay: Overlay, target: Target) -> Prerequisite:
        async def look() -> str:
            route = await self.probes.route(target.address)
            if route.device != overlay.interface:
                raise NotHeldError(
                    f"the kernel would leave by {route.device}, not by {overlay.interface}",
                    "mend AllowedIPs or the routes",
                )
            return f"{route.device} from {route.source}" + (f" by {route.via}" if route.via else "")

        return Prerequisite("route-through-overlay", target.host, look)

    def _path(self, overlay: Overlay, target: Target, run: Circumstances) -> Prerequisite:
        async def look() -> str:
            return await self._clear(target.address, overlay, run, "the way in the tunnel")

        return Prerequisite("path-outside-failed-site", target.host, look)

    async def _clear(self, address: str, overlay: Overlay, run: Circumstances, what: str) -> str:
        """No hop, and not the end, lies in the failed site; asked only when a site has failed."""
        if run.failed_site is None:
            return "no site has failed"
        if run.failed_site not in run.site_networks:
            raise NotHeldError(
                f"where {run.failed_site} is, is not declared", "name its networks in options.access.site_networks"
            )
        route = await self.probes.route(address)
        seen = await self.probes.hops(address, overlay.hops_max)
        for hop in (route.via, *seen.hops, address):
            if hop is not None and run.site_at(hop) == run.failed_site:
                raise NotHeldError(
                    f"{what} to {address} passes {hop} in {run.failed_site}, the site that failed",
                    "use an overlay whose hub and way lie elsewhere",
                )
        if not seen.reached and not any(seen.hops):
            raise NotHeldError(
                f"nothing on {what} to {address} answers, so nobody knows where it passes",
                "let the hub send ICMP time-exceeded",
            )
        silent = sum(1 for hop in seen.hops if hop is None)
        return f"hops {', '.join(hop or '*' for hop in seen.hops) or 'none'}; {silent} silent"


def host_of(endpoint: str | None) -> str | None:
    """The address of `10.0.0.1:51820` or `[fd00::1]:51820`."""
    if not endpoint or ":" not in endpoint:
        return None
    return endpoint.rpartition(":")[0].strip("[]") or None

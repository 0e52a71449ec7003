"""`bastion-explicit`: one named jump host, its key pinned, with a key that can do nothing there but forward (ACC-2)."""

from __future__ import annotations

from collections.abc import Sequence

from hyops.access.circumstances import Circumstances
from hyops.access.mode import AccessMode, NotHeldError, Prerequisite, said
from hyops.errors import PrerequisiteError
from hyops.model.access import AccessOptions
from hyops.model.vocabulary import ExecutionPlane
from hyops.ports.access import SshPlace

LAB, ONPREM = "lab/", "networking/onprem-"


class BastionExplicit(AccessMode):
    """SSH to every target goes through one bastion. Databases are probed directly: a tunnel that breaks looks like a
    database that refuses, and would make a fence look proved that is not.
    """

    plane = ExecutionPlane.BASTION_EXPLICIT
    names = (
        "bastion-defined",
        "bastion-outside-failed-site",
        "bastion-key-pinned",
        "bastion-answers",
        "bastion-only-forwards",
        "target-answers",
    )
    limits = (
        "what the bastion does with the bytes it forwards is not seen: the target's own key is pinned end to end",
    )

    def prerequisites(self, run: Circumstances) -> Sequence[Prerequisite]:
        """The definition decides before anything is dialled."""
        try:
            name = chosen(self.options, run)
        except PrerequisiteError as exc:
            return [said("bastion-defined", run.runner_ref, None, exc.message, exc.hint)]
        bastion = self.options.bastions[name]
        told = f"{bastion.user}@{bastion.address}:{bastion.port} in {bastion.site}"
        outside = bastion.site if bastion.site != run.failed_site else None
        why = f"the bastion stands in {bastion.site}, the site that failed"
        return [
            said("bastion-defined", name, told, "", ""),
            said("bastion-outside-failed-site", name, outside, why, "define a bastion in another site"),
            self._pinned(name),
            *self._answers(name),
            *self.answers(run),
        ]

    def through(self, run: Circumstances) -> Sequence[str]:
        """The bastion."""
        return [chosen(self.options, run)]

    def via(self, run: Circumstances) -> SshPlace:
        """The bastion as a place to log in to."""
        return self._place(chosen(self.options, run))

    def _place(self, name: str) -> SshPlace:
        bastion = self.options.bastions[name]
        return SshPlace(
            name, bastion.address, bastion.port, bastion.user, bastion.key_file, bastion.known_hosts, pinned_as=name
        )

    def _pinned(self, name: str) -> Prerequisite:
        async def look() -> str:
            known_hosts = self.options.bastions[name].known_hosts
            count = await self.probes.pins(known_hosts, name)
            if count == 0:
                raise NotHeldError(f"{known_hosts} pins no key for {name}", "verify the key out of band and pin it")
            return f"{count} in {known_hosts}"

        return Prerequisite("bastion-key-pinned", name, look)

    def _answers(self, name: str) -> list[Prerequisite]:
        ran: list[bool] = []

        async def answers() -> str:
            wait_s = self.options.ready_wait_s
            seen = await self.probes.ssh(self._place(name), via=None, wait_s=wait_s, command=False)
            ran.append(seen.ran)
            return seen.fingerprint

        async def only_forwards() -> str:
            if ran != [False]:
                raise NotHeldError(
                    "the runner's key may run commands on the bastion",
                    'let its line begin with `restrict,port-forwarding,command="/bin/false"`',
                )
            return "a command was refused"

        return [
            Prerequisite("bastion-answers", name, answers),
            Prerequisite("bastion-only-forwards", name, only_forwards),
        ]


def chosen(options: AccessOptions, run: Circumstances) -> str:
    """The bastion's name: the one that is written down. Inference is for a lab and for on-prem bootstrap only.

    Raises:
        PrerequisiteError: none is named, or it would have to be guessed where that is not allowed.
    """
    if options.bastion is not None:
        return options.bastion
    define = "name it in options.access.bastion"
    if not options.infer_bastion:
        raise PrerequisiteError("no bastion is named", hint=define)
    if not may_infer(options, run):
        raise PrerequisiteError(
            f"a bastion is not inferred for {run.blueprint_ref}: only for a lab or for on-prem bootstrap", hint=define
        )
    sites = {target.site for target in run.targets}
    found = [name for name, one in sorted(options.bastions.items()) if sites == {one.site}]
    if len(found) != 1:
        raise PrerequisiteError(f"{len(found)} bastions stand where the targets are", hint=define)
    return found[0]


def may_infer(options: AccessOptions, run: Circumstances) -> bool:
    """Whether the guess is harmless: a lab, or bootstrap on the premises. It never decides a way into a cloud."""
    onprem = bool(run.targets) and all(target.site in options.onprem_sites for target in run.targets)
    if run.blueprint_ref.startswith(LAB):
        return True
    return run.blueprint_ref.startswith(ONPREM) and onprem and run.failed_site is None

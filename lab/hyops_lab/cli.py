"""`hyops lab`: the real hosts on this machine, from the command line."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Sequence

import click

from hyops_lab.errors import LabError
from hyops_lab.hosts import HOSTS, SITES
from hyops_lab.lab import Lab
from hyops_lab.power import MODES
from hyops_lab.roles import ROLES

HOST, SITE, NAME = click.Choice(list(HOSTS)), click.Choice(list(SITES)), click.Choice([*HOSTS, *SITES])


def _say(text: str) -> None:
    click.echo(text, err=True)


@click.group("lab")
@click.option("--lab", "lab_id", envvar="HYOPS_LAB_ID", default="demo", show_default=True, help="Which lab.")
@click.pass_context
def lab(context: click.Context, lab_id: str) -> None:
    """Real hosts on one machine: systemd, SSH, PostgreSQL, etcd and DNS, wired, and broken on purpose.

    Needs root and Linux. Everything lives in namespaces; `down` leaves nothing behind.
    """
    context.obj = Lab(lab_id, say=_say)


@lab.command()
@click.option("--role", "roles", multiple=True, type=click.Choice(list(ROLES)), help="Only these roles, bare.")
@click.option("--bare", is_flag=True, help="Nothing of hyops on the hosts: no stage, runner or fence agent.")
@click.pass_obj
def up(lab: Lab, roles: Sequence[str], bare: bool) -> None:
    """Make and boot all hosts with the whole control loop on them; the first time, build their image."""
    from hyops_lab.wiring import everything

    started = time.monotonic()
    lab.up(roles or tuple(ROLES), wire=None if bare or roles else everything.wire)
    click.echo(f"lab {lab.names.lab_id} is up: {len(HOSTS)} hosts, {time.monotonic() - started:.1f} s")


@lab.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def status(lab: Lab, as_json: bool) -> None:
    """Show the hosts, their power and the faults in force."""
    hosts = lab.status() if lab.is_up() else {}
    faults = lab.faults() if lab.is_up() else []
    if as_json:
        click.echo(json.dumps({"lab": lab.names.lab_id, "up": lab.is_up(), "hosts": hosts, "faults": faults}))
        return
    if not hosts:
        click.echo(f"lab {lab.names.lab_id} is not up")
    for name, facts in hosts.items():
        click.echo(f"{name:14} {facts['site']:7} {facts['address']:11} {facts['power']}")
    for fault in faults:
        click.echo(f"fault: {fault}")


@lab.command()
@click.option("--power", is_flag=True, help="Also boot the machines that are off.")
@click.pass_obj
def heal(lab: Lab, power: bool) -> None:
    """Undo every network, disk and pause fault."""
    lab.roles()  # refuses when the lab is not up
    lab.heal()
    if power:
        for site in SITES:
            lab.power_on_site(site)


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.option("--user", help="Run as this user of the machine instead of root.")
@click.argument("host", type=HOST)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def execute(lab: Lab, user: str | None, host: str, argv: Sequence[str]) -> None:
    """Run a command in a machine, with this terminal."""
    with lab.popen(host, argv, user=user) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            status = process.wait()
    sys.exit(status if status >= 0 else 128 - status)


@lab.command()
@click.pass_obj
def down(lab: Lab) -> None:
    """End and remove everything of the lab, also one that came up in part."""
    lab.down()
    left = lab.inventory().items()
    if left:
        raise LabError("left behind:\n" + "\n".join(left))
    click.echo(f"lab {lab.names.lab_id} is down; nothing of it is left")


@lab.group()
def fail() -> None:
    """Break something on purpose; `heal` undoes what is not a power cut."""


def _fault(
    name: str, act: Callable[..., None], *parameters: Callable[[Callable[..., None]], Callable[..., None]]
) -> None:
    """Add the command `fail NAME`, which passes its parameters to the lab's method `act`."""

    def command(lab: Lab, **values: object) -> None:
        lab.roles()  # refuses when the lab is not up
        act(lab, **values)

    command.__doc__ = (act.__doc__ or "").splitlines()[0]
    for parameter in reversed(parameters):
        command = parameter(command)
    fail.command(name)(click.pass_obj(command))


_host = click.argument("host", type=HOST)
_site = click.argument("site", type=SITE)
_pair = (click.argument("a", type=NAME), click.argument("b", type=NAME))
_way = (click.argument("source", type=NAME), click.argument("destination", type=NAME))
_fault("kill", Lab.kill, _host)
_fault("power-on", Lab.power_on, _host)
_fault("reboot", Lab.reboot, _host)
_fault("pause", Lab.pause, _host)
_fault("resume", Lab.resume, _host)
_fault("kill-site", Lab.kill_site, _site)
_fault("power-on-site", Lab.power_on_site, _site)
_fault("fill-disk", Lab.fill_disk, _host)
_fault("unplug", Lab.unplug, _host)
_fault("cut-site", Lab.cut_site, _site)
_fault("cut-pair", Lab.cut_pair, *_pair)
_fault("cut-one-way", Lab.cut_one_way, *_way)
_fault("lose", Lab.lose, _host, click.argument("percent", type=click.IntRange(1, 100)))
_fault("slow", Lab.slow, _host, click.argument("kbit", type=click.IntRange(8)))
_fault(
    "delay",
    Lab.delay,
    _host,
    click.argument("delay_ms", type=float),
    click.argument("jitter_ms", type=float, default=0),
)
_fault("power-switch", Lab.power_switch_mode, click.argument("mode", type=click.Choice(MODES)))

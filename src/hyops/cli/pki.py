"""`hyops pki`: a site's SSH identity. Two CAs, short certificates, a register that only grows, revocation (RUN-3)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.secret_options import seconds
from hyops.errors import PrerequisiteError
from hyops.model.pki import SERVE_COMMAND

if TYPE_CHECKING:
    from hyops.model.pki import Issued

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
PLACE = "/etc/hyops/pki"


def folder_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--pki`, the folder with the CAs."""
    words: dict[str, Any] = {"default": PLACE, "envvar": "HYOPS_PKI", "show_default": True}
    return click.option("--pki", "folder", type=FOLDER, help="the folder with the CAs", **words)(command)


def signing(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every `sign` takes: the CAs' folder, their passphrase, the key, where the certificate goes."""

    @click.argument("public", type=FILE)
    @click.option("--passphrase-file", type=FILE, help="a 0600 file; its first line opens the CA's key")
    @click.option("--output", "-o", type=FILE, help="default: KEY-cert.pub beside KEY.pub; it is replaced")
    @folder_option
    @wraps(command)
    def with_pki(public: Path, folder: Path, passphrase_file: Path | None, output: Path | None, **rest: Any) -> None:
        from hyops import compose_pki

        try:
            text = public.read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise PrerequisiteError(f"{public}: {exc}", hint="name the file that ends in .pub") from exc
        line, issued = command(compose_pki.pki(folder, passphrase_file), text, str(public), **rest)
        _written(output or public.with_name(public.name.removesuffix(".pub") + "-cert.pub"), line, issued)

    return with_pki


def valid_option(default: str) -> Callable[..., Any]:
    """`--valid`."""
    return click.option("--valid", default=default, show_default=True, help="for how long: 90s, 5m, 12h, 90d")


SOURCE = click.option("--source-address", help="only from these: 10.77.2.5 or 10.77.0.0/16, with commas")


@click.group()
def pki() -> None:
    """SSH identity: a CA for hosts and one for logins; what they signed and took back."""


@pki.command()
@click.option("--passphrase-file", type=FILE, help="a 0600 file; its first line locks both keys")
@folder_option
def init(folder: Path, passphrase_file: Path | None) -> None:
    """Make the host CA, the user CA, the register and an empty revocation list; never over others."""
    from hyops import compose_pki

    compose_pki.make_folder(folder, passphrase_file)
    click.echo(f"{folder}: host_ca and user_ca made; copy the folder to a safe place: nothing can make them again")


@pki.group()
def sign() -> None:
    """Sign the public key of a host, of a program or person, or of one who only passes through a bastion."""


@sign.command()
@click.option("--name", "names", multiple=True, required=True, help="the runner's reference first; may be repeated")
@valid_option("90d")
@signing
def host(ca: Any, public: str, source: str, *, names: tuple[str, ...], valid: str) -> Any:
    """A host key. The client takes it for these names and for no other."""
    from hyops.services.pki import HOST_VALID_S_MAX

    return ca.sign_host(public, names, valid_s=seconds("--valid", valid, HOST_VALID_S_MAX), source=source)


@sign.command()
@click.option("--group", required=True, help="the group of runners that takes it")
@click.option("--command", default=SERVE_COMMAND, show_default=True, help="the only command that it may start")
@SOURCE
@valid_option("5m")
@signing
def user(ca: Any, public: str, source: str, *, valid: str, group: str, **rest: Any) -> Any:
    """A dispatcher's key: one command on the runners of one group; no terminal, no forwarding of any kind."""
    from hyops.services.pki import USER_VALID_S_MAX

    return ca.sign_user(public, group, valid_s=seconds("--valid", valid, USER_VALID_S_MAX), source=source, **rest)


@sign.command()
@click.option("--group", required=True, help="the group of bastions that takes it")
@SOURCE
@valid_option("5m")
@signing
def bastion(ca: Any, public: str, source: str, *, valid: str, group: str, **rest: Any) -> Any:
    """A key that passes through a bastion: port forwarding, and nothing else."""
    from hyops.services.pki import USER_VALID_S_MAX

    return ca.sign_bastion(public, group, valid_s=seconds("--valid", valid, USER_VALID_S_MAX), source=source, **rest)


@pki.command()
@click.option("--serial", type=click.IntRange(min=1), help="one certificate")
@click.option("--key", "public", type=FILE, help="a public key, with every certificate of it")
@click.option("--reason", required=True)
@folder_option
def revoke(serial: int | None, public: Path | None, reason: str, folder: Path) -> None:
    """Take back a certificate or a key, and make FOLDER/revoked.krl anew for every sshd and client."""
    from hyops import compose_pki

    if (serial is None) == (public is None):
        raise click.UsageError("one of --serial and --key")
    ca = compose_pki.pki(folder)
    if serial is not None:
        made = ca.revoke_serial(serial, reason)
    else:
        assert public is not None
        try:
            made = ca.revoke_key(public.read_text(), reason, source=str(public))
        except (OSError, UnicodeDecodeError) as exc:
            raise PrerequisiteError(f"{public}: {exc}", hint="name the file that ends in .pub") from exc
    click.echo("revoked" if made else "was revoked already; the list was made anew")
    click.echo(f"it counts where this file arrives: {folder / 'revoked.krl'}")


@pki.command("list")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
@click.option("--valid", "only_valid", is_flag=True, help="only what counts now")
@folder_option
def listed(as_json: bool, only_valid: bool, folder: Path) -> None:
    """Every certificate that was signed, and whether it counts."""
    from hyops import compose_pki

    for one, state in compose_pki.pki(folder).issued():
        if only_valid and state != "valid":
            continue
        if as_json:
            click.echo(json.dumps({**one.body(), "state": state}))
            continue
        until = f"{one.valid_before:%Y-%m-%d %H:%M:%S}Z" if one.valid_before else "for ever"
        names = ",".join(one.principals)
        click.echo(f"{one.serial:>6}  {one.kind:8} {state:13} {until:20}  {names}  {one.fingerprint}  by {one.by}")


@pki.command("sshd-config")
@click.argument("runner_ref")
@click.option("--group", required=True, help="the group that this runner belongs to")
@click.option("--user", "login", default="hyops", show_default=True, help="who hyops logs in as there")
@click.option("--command", default=SERVE_COMMAND, show_default=True, help="what that group may start")
@click.option("--bastion", "targets", multiple=True, help="a bastion: HOST:PORT that may be reached through it")
@click.option("--host-certificate", type=FILE, help="put this one with the files; needs --output")
@click.option("--output", "-o", type=FOLDER, help="write all files for the runner there, with an install.sh")
@folder_option
def sshd_config(
    runner_ref: str,
    group: str,
    login: str,
    command: str,
    targets: tuple[str, ...],
    host_certificate: Path | None,
    output: Path | None,
    folder: Path,
) -> None:
    """Print what belongs into /etc/ssh/sshd_config.d/hyops.conf of a runner; -o writes it with all that it names."""
    from hyops.services import pki_sshd
    from hyops.services.pki import NO_COMMAND

    text = pki_sshd.drop_in(runner_ref, login, permit_open=targets)
    people = pki_sshd.bastion_principals(group, NO_COMMAND) if targets else pki_sshd.principals(group, command)
    if output is None:
        click.echo(text, nl=False)
        return
    if host_certificate is None:
        raise click.UsageError("--output needs --host-certificate, which `hyops pki sign host` makes")
    try:
        files = {
            "sshd.conf": text.encode(),
            "principals": people.encode(),
            "install.sh": pki_sshd.install(runner_ref).encode(),
            "user_ca.pub": (folder / "user_ca.pub").read_bytes(),
            "revoked.krl": (folder / "revoked.krl").read_bytes(),
            "host-cert.pub": host_certificate.read_bytes(),
        }
        output.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (output / name).write_bytes(data)
    except OSError as exc:
        raise PrerequisiteError(f"{exc.filename}: {exc.strerror}", hint="check --pki and --output") from exc
    click.echo(f"{output}: {', '.join(files)}; copy it to {runner_ref} and run `sh install.sh` there")


@pki.command("known-hosts")
@click.argument("runner_refs", nargs=-1, required=True)
@folder_option
def known_hosts(runner_refs: tuple[str, ...], folder: Path) -> None:
    """Print the line for the executor's `known_hosts`: this host CA vouches for these runners."""
    from hyops.services import pki_sshd

    place = folder / "host_ca.pub"
    try:
        click.echo(pki_sshd.known_hosts(runner_refs, place.read_text()), nl=False)
    except OSError as exc:
        raise PrerequisiteError(f"{place}: {exc.strerror}", hint="check --pki") from exc


def _written(path: Path, line: bytes, issued: Issued) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(line)
        fresh.replace(path)
    except OSError as exc:
        hint = f"it is spent: revoke it with `hyops pki revoke --serial {issued.serial} --reason X`, and sign again"
        raise PrerequisiteError(f"{path}: {exc.strerror}; serial {issued.serial} was signed", hint=hint) from exc
    until = f"{issued.valid_before:%Y-%m-%d %H:%M:%S}Z"
    click.echo(f"{path}: serial {issued.serial}, {issued.kind} {', '.join(issued.principals)}, until {until}")

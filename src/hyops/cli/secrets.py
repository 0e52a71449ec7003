"""`hyops secrets`: the vault cache of an environment and the authorities that fill it (SEC-1, SEC-2).

Values come in over standard input or a hidden prompt and go out into the environment of one child, or to the screen
after `--reveal`; never through argv, a log or a file.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.sealing import seal, seal_key, unseal
from hyops.cli.secret_options import UNIT_S, become, cache_options, opened, seconds
from hyops.errors import PrerequisiteError, UsageError

if TYPE_CHECKING:
    from hyops.services.secrets import Told

VALUE_BYTES_MAX = 128 * 1024
AUTHORITIES = {
    "vault": "HashiCorp Vault or OpenBao",
    "gsm": "Google Secret Manager",
    "asm": "AWS Secrets Manager",
    "akv": "Azure Key Vault",
}


@click.group()
def secrets() -> None:
    """The vault cache of an environment, and what fills it."""


def _sync_command(authority: str, title: str) -> click.Command:
    @click.command(f"{authority}-sync", help=f"Bring the mapped keys to what {title} has now; all of them or none.")
    @click.option("--map-file", type=click.Path(path_type=Path, dir_okay=False), help="CSV of scope,ENV_KEY,REF")
    @click.option("--scope", "scopes", multiple=True, help="only rows of this scope; may be repeated")
    @click.option("--accept-removals", is_flag=True, help="even when more than half of the keys are gone")
    @click.option("--dry-run", is_flag=True, help="ask the authority and tell what would change")
    @click.option("--json", "as_json", is_flag=True, help="for programs")
    @cache_options
    def sync(
        map_file: Path | None,
        scopes: tuple[str, ...],
        accept_removals: bool,
        dry_run: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        from hyops import compose_secrets
        from hyops.secretsync.mapping import parse_map

        cache, root, env = opened(options)
        path, data = compose_secrets.secret_map(root, authority, map_file)
        rows = parse_map(data, env=env, source=str(path), scopes=scopes)
        asked = compose_secrets.secret_authority(root, authority)
        done = asyncio.run(cache.sync(asked, rows, accept_removals=accept_removals, dry_run=dry_run))
        words = ("added", "replaced", "same", "removed", "still_gone")
        told = {word: list(getattr(done, word)) for word in words}
        if as_json:
            click.echo(json.dumps({"authority": authority, "place": asked.place, "dry_run": dry_run, **told}))
            return
        for word, keys in told.items():
            if keys:
                click.echo(f"{word.replace('_', ' '):10} {', '.join(keys)}")
        if dry_run:
            click.echo("nothing was written")

    return sync


for _command in (seal, seal_key, unseal):
    secrets.add_command(_command)
for _name, _title in AUTHORITIES.items():
    secrets.add_command(_sync_command(_name, _title))


@secrets.command("set")
@click.argument("key")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="take the value from a file, as it is")
@cache_options
def set_(key: str, file: Path | None, **options: Any) -> None:
    """Keep a value by hand: from standard input, a hidden prompt or a file. A later sync of KEY replaces it."""
    from hyops.model.secret import Secret

    cache, _, _ = opened(options)
    fresh = cache.put(key, Secret(_value(key, file)))
    click.echo(f"{key}: {'added' if fresh else 'replaced'}")


def _value(key: str, file: Path | None) -> str:
    if file is None and sys.stdin.isatty():
        return str(click.prompt(f"value of {key}", hide_input=True, confirmation_prompt=True))
    try:
        if file is not None:
            with file.open("rb") as source:
                data = source.read(VALUE_BYTES_MAX + 1)
        else:
            data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1).removesuffix(b"\n").removesuffix(b"\r")
        text = data.decode()
    except OSError as exc:
        raise PrerequisiteError(f"{file or 'standard input'}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise UsageError(f"{key}: the value is not UTF-8 text") from None
    if not text or len(data) > VALUE_BYTES_MAX:
        raise UsageError(f"{key}: the value is empty, or longer than {VALUE_BYTES_MAX} bytes")
    return text


@secrets.command()
@click.argument("key")
@click.option("--reveal", is_flag=True, help="print the value itself, and nothing else")
@click.option("--json", "as_json", is_flag=True, help="for programs")
@cache_options
def show(key: str, reveal: bool, as_json: bool, **options: Any) -> None:
    """Where a key comes from and how old it is; its value only with --reveal."""
    cache, _, _ = opened(options)
    if reveal:
        value = cache.reveal(key).reveal()
        click.echo(json.dumps({"key": key, "value": value}) if as_json else value)
        return
    _tell([cache.about(key)], as_json)


@secrets.command()
@click.option("--json", "as_json", is_flag=True, help="for programs")
@cache_options
def keys(as_json: bool, **options: Any) -> None:
    """Every key with its origin and age; no values."""
    cache, _, _ = opened(options)
    _tell(cache.told(), as_json)


@secrets.command()
@click.argument("names", metavar="KEY...", nargs=-1, required=True)
@click.option("--generate", is_flag=True, help="make up a random value for those that have none")
@click.option("--age-max", help="fail also when a value is older, for example 90s, 30m, 12h, 7d")
@cache_options
def ensure(names: tuple[str, ...], generate: bool, age_max: str | None, **options: Any) -> None:
    """End 0 only when every KEY has a value, young enough; 21 otherwise."""
    age_max_s = None if age_max is None else seconds("--age-max", age_max)
    cache, _, _ = opened(options)
    made = cache.ensure(names, generate=generate, age_max_s=age_max_s)
    for name in names:
        click.echo(f"{name}: {'generated' if name in made else 'present'}")


@secrets.command("exec")
@click.option("--key", "names", multiple=True, required=True, help="hand over this key; may be repeated")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@cache_options
def exec_(names: tuple[str, ...], command: tuple[str, ...], **options: Any) -> None:
    """Become COMMAND, with the named keys, and no others, in its environment."""
    cache, _, _ = opened(options)
    become(command, cache.environment(names))


def _tell(found: list[Told], as_json: bool) -> None:
    for one in found:
        origin = {name: value for name, value in vars(one.origin).items() if value is not None}
        if as_json:
            at = None if one.at is None else one.at.isoformat()
            click.echo(json.dumps({"key": one.key, "state": one.state, **origin, "at": at, "age_s": one.age_s}))
            continue
        where = f" {one.origin.place}" if one.origin.place else ""
        ref = f" {one.origin.ref}" if one.origin.ref else ""
        version = f" version {one.origin.version}" if one.origin.version else ""
        gone = "gone upstream  " if one.state == "gone" else ""
        click.echo(f"{one.key:32} {_age(one.age_s):>8}  {gone}{one.origin.authority}{where}{ref}{version}")


def _age(age_s: float | None) -> str:
    if age_s is None:
        return "unknown"
    for unit in ("d", "h", "m"):
        if age_s >= 2 * UNIT_S[unit]:
            return f"{age_s / UNIT_S[unit]:.0f}{unit}"
    return f"{age_s:.0f}s"

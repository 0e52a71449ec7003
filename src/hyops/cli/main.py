"""The command line's root: groups load when they are used, errors become one message and one exit code (UX-1, UX-2)."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence

import click

from hyops._version import __version__
from hyops.cli.table import ABOUT, GROUPS, help_text
from hyops.errors import Effect, HyopsError
from hyops.model.words import shown
from hyops.services.loading import loading

ERROR_LINE_MAX = 1 << 20


class LazyGroup(click.Group):
    """A group whose help comes from the table above, so that `--help` imports no command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All groups, by name."""
        return sorted(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the one group that is asked for."""
        if cmd_name not in GROUPS:
            return None
        module, attribute, _ = GROUPS[cmd_name]
        with loading():
            command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Add the nearest word to the error of an unknown one."""
        if args and args[0] not in GROUPS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], GROUPS, n=1)
            ctx.fail(f"no command {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        """The text that `hyops --help` prints without coming here."""
        return help_text()


@click.command(cls=LazyGroup, help=ABOUT, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="hyops", message="%(prog)s %(version)s")
def root() -> None:
    """The root of all groups; its help is `table.help_text`."""


def main(words: Sequence[str]) -> int:
    """Run one command; every error becomes a message on stderr (or JSON with --json) and its exit code."""
    try:
        result = root.main(args=list(words), prog_name="hyops", standalone_mode=False)
    except click.exceptions.Abort:
        print("hyops: cancelled", file=sys.stderr)
        return 130
    except click.ClickException as exc:
        exc.show()
        return 2
    except KeyboardInterrupt:
        print("hyops: cancelled", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except HyopsError as exc:
        show_error(exc, as_json="--json" in words)
        return exc.exit_code
    except Exception as exc:  # the CLI's main is one of the three homes of a catch-all (STYLE.md)
        if os.environ.get("HYOPS_DEBUG"):
            raise
        bug = HyopsError(f"{type(exc).__name__}: {exc}", hint="set HYOPS_DEBUG=1 for the traceback and report it")
        show_error(bug, as_json="--json" in words)
        return bug.exit_code
    return result if isinstance(result, int) else 0


def show_error(error: HyopsError, *, as_json: bool) -> None:
    """Say what happened, what was touched and what to do next; a text of others speaks to no terminal (INV-8)."""
    if as_json:
        print(json.dumps(error.as_json(), ensure_ascii=False))
        return
    touched = {Effect.NONE: "nothing was touched", Effect.PARTIAL: "partly done", Effect.UNKNOWN: "effect unknown"}
    said = [f"hyops: {error.message}", *(f"  {key}: {value}" for key, value in error.facts.items())]
    said += [f"  touched: {error.effect} ({touched[error.effect]})", f"  next: {error.hint}"]
    for line in "\n".join(said).split("\n"):
        print(shown(line, ERROR_LINE_MAX), file=sys.stderr)

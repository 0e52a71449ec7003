"""`--version` and `--help` load nothing that they do not need; a look at `sys.modules`, never at a clock."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from typing import Any

import click
import pytest

from hyops.cli.main import root
from hyops.cli.service import SERVICES, daemon
from hyops.cli.table import GROUPS, OPTIONS, help_text

HEAVY = {"pydantic", "asyncio", "asyncssh", "cryptography", "httpx", "psycopg", "dns", "yaml", "rich", "email"}


def loaded(*words: str) -> set[str]:
    """The modules that one command leaves loaded."""
    program = (
        "import sys, json, io, contextlib\n"
        f"sys.argv = ['hyops', *{list(words)!r}]\n"
        "from hyops.__main__ import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    code = main()\n"
        "json.dump([code, sorted(sys.modules)], sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": _path()}
    )
    code, names = json.loads(done.stderr)
    assert code == 0
    return set(names)


def _path() -> str:
    return ":".join(entry for entry in sys.path if entry)


@pytest.mark.req("UX-2")
def test_version_loads_only_the_version() -> None:
    """No parser, no package: two modules of hyops and nothing of anybody else's."""
    names = loaded("--version")

    assert {n for n in names if n.split(".")[0] == "hyops"} == {"hyops", "hyops.__main__", "hyops._version"}
    assert {n.split(".")[0] for n in names} & (HEAVY | {"click"}) == set()


@pytest.mark.req("UX-2")
def test_help_loads_only_its_text() -> None:
    """The list of commands comes from a table; neither the parser nor any command is imported for it."""
    names = loaded("--help")

    assert {n for n in names if n.startswith("hyops.")} == {"hyops.__main__", "hyops.cli", "hyops.cli.table"}
    assert {n.split(".")[0] for n in names} & (HEAVY | {"click"}) == set()


@pytest.mark.req("UX-2")
def test_the_help_text_is_the_one_of_the_parser() -> None:
    """What is printed without the parser is what the parser prints for `hyops` alone, and it fits 80 columns."""
    shown = root.get_help(click.Context(root, info_name="hyops"))

    assert shown == help_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert {name for name in GROUPS if f"  {name} " in shown} == set(GROUPS)
    assert {option for option in OPTIONS if option in shown} == set(OPTIONS)
    context = root.make_context("hyops", [], resilient_parsing=True)
    assert {", ".join(param.opts) for param in root.get_params(context)} == set(OPTIONS)


def test_an_http_client_loads_no_console() -> None:
    """Services and runs that speak HTTP do not carry rich, pygments and click about; the client works all the same."""
    program = "import sys, hyops.adapters.http_client as h; h.httpx.AsyncClient(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": _path()}
    )

    assert {name.split(".")[0] for name in done.stdout.split()} & {"rich", "pygments", "click"} == set()


def test_a_job_that_connects_nowhere_loads_no_client_for_it() -> None:
    """Every job asks its access mode, and fifty of them start at once on a small machine: SSH comes with its use."""
    program = (
        "import sys, hyops.compose_runner, hyops.services.runner_job, hyops.adapters.access_probes; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": _path()}
    )

    assert {name.split(".")[0] for name in done.stdout.split()} & {
        "asyncssh",
        "httpx",
        "psycopg",
        "dns",
        "yaml",
    } == set()


def test_a_client_of_runners_starts_no_program_by_being_loaded() -> None:
    """asyncssh and asyncinotify look for libraries with ldconfig, gcc and ld; a process of ours does without."""
    program = (
        "import ctypes.util, sys\n"
        "started, search = [], ctypes.util.find_library\n"
        "sys.addaudithook(lambda event, args: started.append(args[0]) if event == 'subprocess.Popen' else None)\n"
        "import hyops.adapters.ssh_asyncssh, hyops.adapters.access_probes, hyops.adapters.access_outside\n"
        "import hyops.adapters.store_files, hyops.adapters.arrival\n"
        "assert ctypes.util.find_library is search\n"
        "print(started)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": _path()}
    )

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("library", "place"),
    [("asyncssh", "hyops.adapters.ssh_library"), ("asyncinotify", "hyops.adapters.inotify_library")],
)
def test_a_library_that_searches_is_loaded_in_one_place(imports: list[Any], library: str, place: str) -> None:
    """Whoever imports it first decides how; so nobody else does."""
    assert {one.source for one in imports if one.target.split(".")[0] == library} == {place}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_daemon(name: str) -> None:
    """What `hyops service run` offers stands in the module of composition that it is looked for in."""
    assert inspect.iscoroutinefunction(daemon(name))


def test_a_fence_agent_loads_no_stage_of_the_loop() -> None:
    """The process beside a database is the one that must stay small: it loads its own part of composition alone."""
    program = "import sys; from hyops.cli.service import daemon; daemon('fence-agent'); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": _path()}
    )

    composed = {name for name in done.stdout.split() if name.startswith("hyops.compose")}
    assert composed == {"hyops.compose", "hyops.compose_fence"}

"""Stages of a control host as a process of their own, from any release: `python stages_there.py TREE FOLDER STAGE...`

TREE is the folder that holds `hyops`; FOLDER has the configurations, `<stage>.json`. It says `serves` and the release
on stdout once its stages begin, and ends as a host whose services are stopped: all of them, between two steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path


async def serve(folder: Path, names: list[str]) -> None:
    """Until one of them is told to stop."""
    from hyops.cli.service import daemon

    tasks = [asyncio.create_task(daemon(name)(folder / f"{name}.json")) for name in names]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main(tree: str, folder: Path, names: list[str]) -> None:
    """Serve what that release is."""
    sys.path.insert(0, tree)
    from hyops._version import __version__
    from hyops.compose_store import serving

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(serving(name, folder / f"{name}.json"))
        print("serves", __version__, flush=True)
        asyncio.run(serve(folder, names))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

"""`hyops runner bootstrap` of which one part is done for real: who is let in, by the file of a sshd of a test.

`python entrance_there.py SERVE USER PUBLIC runner bootstrap ...`: the words are read by the command itself.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from hyops.cli.runner_bootstrap import bootstrap
from hyops.runner.setup import Setup
from hyops.services import bootstrap as service
from hyops.services import runner_files


def main(serve: str, user: str, public: str, *words: str) -> None:
    """Make the entrance as the plan of these words has it."""
    assert words[:2] == ("runner", "bootstrap")
    given = bootstrap.make_context("bootstrap", list(words[2:])).params
    runner_files.SERVE = serve
    entrance = service._entrance(Path(public).read_text(), alone=given["only_this_key"])
    account = {"name": user, "home": "/"}
    plan = {"entrance": entrance, "user": account, "path": os.environ["PATH"], "apply": not given["dry_run"]}
    made = Setup(plan, io.BytesIO())
    made._entrance()
    sys.stdout.write(f"{made.items} {made.also}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

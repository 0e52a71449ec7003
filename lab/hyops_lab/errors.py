"""What can go wrong in the lab, named for the condition; the command line shows it as it shows any other error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hyops.errors import Effect, HyopsError


class LabError(HyopsError):
    """The lab could not do what was asked; the message names the host and the place to look."""

    exit_code: ClassVar[int] = 20
    effect = Effect.PARTIAL
    hint = "`hyops lab status` shows the hosts and the faults in force; `hyops lab down` removes all of the lab"


class RequirementsError(LabError):
    """This machine cannot run the lab; `missing` says everything that is needed, at once."""

    exit_code = 12
    effect = Effect.NONE
    hint = "install or allow what is named; on Debian and Ubuntu `tools/setup --lab` installs the packages"

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__("this machine cannot run the lab:\n" + "\n".join(f"  - {item}" for item in self.missing))


class NotUpError(LabError):
    """There is no such lab."""

    exit_code = 12
    effect = Effect.NONE
    hint = "`hyops lab up` boots it; `--lab` or HYOPS_LAB_ID names another one"


class CommandError(LabError):
    """A command ended with a status other than 0."""

    def __init__(self, argv: Sequence[str], returncode: int, output: str, where: str = "") -> None:
        self.argv, self.returncode, self.output = tuple(argv), returncode, output
        place = f" on {where}" if where else ""
        super().__init__(f"exit {returncode}{place}: {' '.join(argv)}\n{output.strip()[-4000:]}")


class WaitError(LabError):
    """Something that was waited for did not happen before its deadline."""

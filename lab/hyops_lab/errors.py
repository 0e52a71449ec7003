"""What can go wrong in the lab, named for the condition."""

from collections.abc import Sequence


class LabError(Exception):
    """The lab could not do what was asked; the message names the host and the place to look."""


class RequirementsError(LabError):
    """This machine cannot run the lab; `missing` says everything that is needed, at once."""

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__("this machine cannot run the lab:\n" + "\n".join(f"  - {item}" for item in self.missing))


class CommandError(LabError):
    """A command ended with a status other than 0."""

    def __init__(self, argv: Sequence[str], returncode: int, output: str, where: str = "") -> None:
        self.argv, self.returncode, self.output = tuple(argv), returncode, output
        place = f" on {where}" if where else ""
        super().__init__(f"exit {returncode}{place}: {' '.join(argv)}\n{output.strip()[-4000:]}")


class WaitError(LabError):
    """Something that was waited for did not happen before its deadline."""

"""What attempts and outcomes say of each service, kept record by record: a pass costs what is new, not what is old.

`mode_of` is asked with the few records that can still tell something. A closed attempt tells nothing, nor does an
outcome that neither raised a generation nor left a question.
"""

from __future__ import annotations

from collections import defaultdict

from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.vocabulary import Outcome
from hyops.services.inbox import Inbox


class Standing:
    """The records of all services, sorted into what is open, what is telling, and what ended in which generation."""

    def __init__(self, attempts: Inbox[Attempt], outcomes: Inbox[AttemptOutcome]) -> None:
        self._attempts, self._outcomes = attempts, outcomes
        self._forget()

    def _forget(self) -> None:
        self._removals = (self._attempts.removals, self._outcomes.removals)
        self._read = [0, 0]
        self.closed: set[str] = set()
        self._open: defaultdict[str, dict[str, Attempt]] = defaultdict(dict)
        self._telling: defaultdict[str, list[AttemptOutcome]] = defaultdict(list)
        self._succeeded: defaultdict[str, list[AttemptOutcome]] = defaultdict(list)
        self._ended: defaultdict[tuple[str, int], list[AttemptOutcome]] = defaultdict(list)

    def refresh(self) -> None:
        """Take in what is new; when a record was removed by hand, everything is read anew."""
        self._outcomes.refresh()
        self._attempts.refresh()
        if (self._attempts.removals, self._outcomes.removals) != self._removals:
            self._forget()
        attempts, outcomes = self._attempts.taken[self._read[0] :], self._outcomes.taken[self._read[1] :]
        self._read = [len(self._attempts.taken), len(self._outcomes.taken)]
        for outcome in outcomes:
            self.closed.add(outcome.attempt_id)
            self._open[outcome.service].pop(outcome.attempt_id, None)
            self._ended[outcome.service, outcome.generation_before].append(outcome)
            if outcome.outcome is Outcome.SUCCEEDED:
                self._succeeded[outcome.service].append(outcome)
            raised, answers = outcome.generation_after is not None, outcome.reconciles is not None
            if outcome.outcome is Outcome.UNKNOWN or raised or answers:
                self._telling[outcome.service].append(outcome)
        for attempt in attempts:
            if attempt.execution_mode == "dispatch" and attempt.attempt_id not in self.closed:
                self._open[attempt.service][attempt.attempt_id] = attempt

    def telling(self, service: str) -> tuple[list[Attempt], list[AttemptOutcome]]:
        """The attempts and outcomes of a service that decide where it is, outcomes by id."""
        return list(self._open[service].values()), sorted(self._telling[service], key=_id_of)

    def succeeded(self, service: str) -> list[AttemptOutcome]:
        """The outcomes of a service that were seen to be a success, as they came."""
        return self._succeeded[service]

    def attempt(self, attempt_id: str) -> Attempt | None:
        """One attempt by id."""
        return self._attempts.get(attempt_id)

    def ended(self, service: str, generation: int) -> list[AttemptOutcome]:
        """How the attempts of one generation ended."""
        return self._ended[service, generation]


def _id_of(outcome: AttemptOutcome) -> str:
    return outcome.outcome_id

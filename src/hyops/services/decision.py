"""The decision service: samples in, at most one decision out; it never acts (DEC-1 to DEC-6)."""

from __future__ import annotations

from hyops.control.decision import Emission, evaluate, place_of
from hyops.control.mode import mode_of
from hyops.control.window import Window
from hyops.model.decision import Decision
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.observed import DecisionInputs, Latch, Mode, Past
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import DrMode
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signals import Lost, Received
from hyops.ports.signer import Signer, Verifier
from hyops.services.answered import Answered
from hyops.services.holds import HoldBook
from hyops.services.inbox import Inbox
from hyops.services.loop import log
from hyops.services.standing import Standing

PAST_KEPT = 64


class DecisionStage:
    """Reads `attempts` and `outcomes`; writes `inputs` and `decisions` of one service, and what `holds` refuses."""

    def __init__(
        self,
        policy: ServicePolicy,
        *,
        initial_generation: int,
        decisions: RecordStore,
        inputs: RecordStore,
        attempts: RecordStore,
        outcomes: RecordStore,
        signer: Signer,
        verifier: Verifier,
        clock: Clock,
        holds: HoldBook | None = None,
        beside: DecisionStage | None = None,
    ) -> None:
        """`beside`: a stage of the same process, for another service; what it has read of the records is shared."""
        self.policy = policy
        self._initial_generation = initial_generation
        self._decisions: Inbox[Decision] = (
            beside._decisions if beside else Inbox(decisions, Decision, verifier, role="decision")
        )
        self._standing: Standing = (
            beside._standing
            if beside
            else Standing(
                Inbox(attempts, Attempt, verifier, role="execution"),
                Inbox(outcomes, AttemptOutcome, verifier, role="execution"),
            )
        )
        self._store, self._inputs = decisions, inputs
        self._signer, self._clock, self._holds = signer, clock, holds
        self._answered = Answered(policy.service, self._decisions, self._standing)
        self.window = Window(policy)
        self._seen_s: dict[str, float] = {}
        self._mine: list[Decision] = []
        self._place, self._read = (-1, 0), 0
        self.mode = Mode(generation=initial_generation, primary=policy.preferred)

    def look(self, *, refresh: bool = True) -> bool:
        """Read records (a stage beside it may just have); True when the primary has become another one.

        What was seen is forgotten then, and when a run has ended: an outage that the run itself made confirms nothing
        about the service that it left behind.
        """
        if refresh:
            self._decisions.refresh()
            self._standing.refresh()
        self._answered.refresh()
        attempts, outcomes = self._standing.telling(self.policy.service)
        if self._holds is not None:
            self._holds.refresh(max((outcome.timestamp_utc for outcome in outcomes), default=None))
        before = self.mode
        self.mode = mode_of(self.policy, self._initial_generation, attempts, outcomes)
        changed = (before.primary, before.generation) != (self.mode.primary, self.mode.generation)
        ended = before.open_attempt is not None and before.open_attempt != self.mode.open_attempt
        if changed or ended:
            self.window.forget()
        self._remember()
        return changed

    def take(self, event: Received | Lost) -> None:
        """One thing a vantage point said, or that it went away."""
        if isinstance(event, Lost):
            self.window.reset(event.vantage, self._clock.monotonic())
        else:
            self.window.add(event.sample, event.received_s)

    async def step(self, slow: bool = False) -> Emission | None:
        """Judge what is known now; record at most one decision, with its inputs beside it first."""
        inputs = self.inputs_now()
        emission = evaluate(inputs)
        if emission is None or self._store.known(emission.slot) is not None:
            return None
        decision = emission.decision
        name = (decision.inputs_digest or "").removeprefix("sha256:")
        self._inputs.create(name, inputs.encoded())
        signed = sign_record(decision, self._signer)
        made = self._store.create(decision.decision_id, signed.encoded(), slot=emission.slot)
        self._decisions.refresh()
        self._answered.refresh()
        self._remember()
        if not made.made:
            return None
        log("decision", decision_id=decision.decision_id, type=decision.decision_type, rationale=decision.rationale)
        return emission

    def inputs_now(self) -> DecisionInputs:
        """Everything `evaluate` may know."""
        return DecisionInputs(
            at=self._clock.now(),
            now_s=round(self._clock.monotonic(), 6),
            policy=self.policy,
            mode=self.mode,
            series=self.window.series(),
            past=self._past(),
            hold=self._holds.hold_now() if self._holds else None,
            latch=self._latch(),
            scale=self._answered.scale() if self.policy.burst else None,
        )

    def _latch(self) -> Latch | None:
        if self.policy.latch is False:
            return None
        return self._answered.latch(self.mode, self._holds.acknowledged if self._holds else {})

    def _remember(self) -> None:
        """Its own decisions of this generation, but not what an operator asked for and nobody may have approved."""
        place = (self.mode.generation, self._decisions.removals)
        if place != self._place:
            self._place, self._read, self._mine = place, 0, []
        self._mine += [
            d
            for d in self._decisions.taken[self._read :]
            if d.service == self.policy.service
            and d.generation == self.mode.generation
            and d.timestamp_utc is not None
            and d.requested_by is None
        ]
        self._read = len(self._decisions.taken)
        self._mine = sorted(self._mine, key=lambda d: d.decision_id)[-PAST_KEPT:]

    def _past(self) -> list[Past]:
        return [self._past_of(decision) for decision in self._mine]

    def _past_of(self, decision: Decision) -> Past:
        assert decision.timestamp_utc is not None
        ordinal, key = place_of(decision)
        closed = [
            o
            for o in self._standing.ended(self.policy.service, self.mode.generation)
            if o.timestamp_utc >= decision.timestamp_utc and self._answered.closes(o, decision)
        ]
        last = max(closed, key=lambda o: o.timestamp_utc, default=None)
        age_s, ends = self._age_s(decision.decision_id, decision), decision.expires_at
        lived = ends is not None and age_s >= (ends - decision.timestamp_utc).total_seconds()  # dated ahead or not
        return Past(
            decision_id=decision.decision_id,
            decision_type=decision.decision_type,
            ordinal=ordinal,
            age_s=age_s,
            denied=decision.dr_mode is DrMode.DENY,
            expired=lived or (ends is not None and self._clock.now() >= ends),
            reason_key=key,
            closed=last.outcome if last else None,
            closed_age_s=self._age_s(last.outcome_id, last) if last else None,
        )

    def _age_s(self, record_id: str, record: Decision | AttemptOutcome) -> float:
        """Since this process first saw it, plus what its age was then; so a jump of the wall clock moves nothing."""
        now_s = self._clock.monotonic()
        if record_id not in self._seen_s:
            stamp = record.timestamp_utc
            age_s = (self._clock.now() - stamp).total_seconds() if stamp else 0.0
            self._seen_s[record_id] = now_s - max(age_s, 0.0)
        return round(now_s - self._seen_s[record_id], 6)

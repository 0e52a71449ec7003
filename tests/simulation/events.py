"""What can happen to an arena: a declared list of events with their arguments, each one JSON, each one replayable."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hyops.control.decision import asked_inputs, operator_decision
from hyops.errors import HyopsError
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.observed import Asked
from hyops.model.vocabulary import CheckStatus, DecisionType, Occasion
from hyops.services.asking import record_once
from simulation.arena import STAGES, Arena
from simulation.hosts import HOSTS, SITES
from simulation.world import KEYS, RUNNERS, VANTAGES, VERIFIER

Event = tuple[Any, ...]
Do = Callable[..., None]
Draw = Callable[[random.Random], tuple[Any, ...]]
EVENTS: dict[str, tuple[Do, Draw]] = {}
PEOPLE = ("ada", "bob", "eve", "glass", "mallory")
VERBS = ("connect", "hello", "stage", "start", "attach", "status", "collect", "start-in-flight")
FORGERIES: dict[str, dict[str, Any]] = {
    "unsigned": {"signature": None},
    "another-run": {"run_id": "run-20260131T120000Z-00000000"},
    "another-plan": {"plan_digest": "sha256:" + "0" * 64},
    "wild-generation": {"generation_after": 9},
    "edited": {"primary_after": "onprem-db"},
}


def event(name: str, draw: Draw = lambda rng: ()) -> Callable[[Do], Do]:
    """Declare one."""

    def declare(do: Do) -> Do:
        EVENTS[name] = (do, draw)
        return do

    return declare


def one_of(*values: Any) -> Draw:
    """One argument out of these."""
    return lambda rng: (rng.choice(values),)


def apply(arena: Arena, happens: Event) -> None:
    """Let it happen, and hold the invariants against what came of it."""
    name, *args = happens
    arena.met("event", name)
    EVENTS[name][0](arena, *args)
    arena.check()


def instance(arena: Arena, index: int) -> int:
    """An instance that there is."""
    return index % len(arena.stages)


# time and turns


@event("watch", one_of(0.4, 0.8, 1.2, 2.0))
def _watch(arena: Arena, seconds: float) -> None:
    arena.watch(seconds)


@event("idle", one_of(0.1, 1.0, 3.0, 12.0, 130.0))
def _idle(arena: Arena, seconds: float) -> None:
    """Nobody looks and no stage has a turn; the hosts, jobs and clients live on."""
    if seconds > 20:  # what lives on meanwhile has settled long before
        arena.loop.let_pass(5.0)
        arena.clock.jump_wall(seconds - 5.0)
        return
    arena.loop.let_pass(seconds)


@event("jump", one_of(-3600.0, -30.0, -1.0, 1.0, 30.0, 400.0))
def _jump(arena: Arena, seconds: float) -> None:
    arena.clock.jump_wall(seconds)


@event("turn", lambda rng: (rng.randrange(2), rng.choice(STAGES)))
def _turn(arena: Arena, index: int, stage: str) -> None:
    arena.turn(instance(arena, index), stage)


@event("pump")
def _pump(arena: Arena) -> None:
    arena.pump()


@event("crash", lambda rng: (rng.randint(1, 6),))
def _crash(arena: Arena, effects: int) -> None:
    arena.meter.crash_after = arena.meter.done + effects


@event("restart", lambda rng: (rng.randrange(2), rng.choice(STAGES)))
def _restart(arena: Arena, index: int, stage: str) -> None:
    arena.boot(instance(arena, index), stage)


@event("freeze", lambda rng: (rng.randrange(2), rng.choice(STAGES)))
def _freeze(arena: Arena, index: int, stage: str) -> None:
    arena.processes[instance(arena, index), stage].freeze()


@event("thaw")
def _thaw(arena: Arena) -> None:
    for process in arena.processes.values():
        process.thaw()


@event("stall", lambda rng: (rng.randrange(2), rng.choice(STAGES[:3]), rng.choice((0.0, 1.0, 130.0))))
def _stall(arena: Arena, index: int, stage: str, seconds: float) -> None:
    """This process stands still before its next effect, and everybody else has two rounds meanwhile."""

    def meanwhile() -> None:
        for _ in range(2):
            arena.pump()
        if seconds:
            _idle(arena, seconds)

    arena.stalls[arena.processes[instance(arena, index), stage].name] = meanwhile


@event("full-create", one_of(1, 2))
def _full_create(arena: Arena, times: int) -> None:
    arena.full_creates = times


# what is seen


@event("lie-dead", one_of(*VANTAGES))
def _lie_dead(arena: Arena, vantage: str) -> None:
    arena.lies[vantage] = 0.0


@event("lie-alive", one_of(*VANTAGES))
def _lie_alive(arena: Arena, vantage: str) -> None:
    arena.lies[vantage] = 1.0


@event("all-lie-dead")
def _all_lie(arena: Arena) -> None:
    """Every path to the primary is broken, and WAL flows."""
    arena.lies = dict.fromkeys(VANTAGES, 0.0)


@event("silent", one_of(*VANTAGES))
def _silent(arena: Arena, vantage: str) -> None:
    arena.seen.silent.add(vantage)


@event("error", one_of(*VANTAGES))
def _error(arena: Arena, vantage: str) -> None:
    arena.seen.error.add(vantage)


@event("unwell", one_of(*VANTAGES))
def _unwell(arena: Arena, vantage: str) -> None:
    arena.seen.unwell.add(vantage)


@event("wal-fresh")
def _wal_fresh(arena: Arena) -> None:
    arena.seen.wal_age_s = 0.1


@event("wal-stalled")
def _wal_stalled(arena: Arena) -> None:
    arena.pair.net.wal_stalled = True


@event("lag", one_of(5e6, None))
def _lag(arena: Arena, lag: float | None) -> None:
    arena.seen.lag_bytes = lag


@event("seen-well")
def _seen_well(arena: Arena) -> None:
    arena.lies, arena.pair.net.wal_stalled = {}, False
    arena.site_lives()


@event("lost-connection", one_of(*VANTAGES))
def _lost_connection(arena: Arena, vantage: str) -> None:
    from hyops.ports.signals import Lost

    for index, stages in enumerate(arena.stages):
        stages["decision"].take(Lost(vantage, "reset"))
        arena.heard = {key: said for key, said in arena.heard.items() if key[:2] != (index, vantage)}


# sites and hosts


@event("cut", lambda rng: tuple(rng.sample(SITES, 2)))
def _cut(arena: Arena, one: str, other: str) -> None:
    arena.pair.net.cut.add(frozenset((one, other)))


@event("mend")
def _mend(arena: Arena) -> None:
    arena.pair.net.cut.clear()


@event("site-dies", one_of("onprem", "onprem", "cloud"))
def _site_dies(arena: Arena, site: str) -> None:
    arena.pair.net.down.add(site)
    for host, it in arena.pair.hosts.items():
        if it.member.site == site:
            arena.pair.power_off(host)
    for runner in arena.sim_runners.values():
        if runner.site == site:
            runner.reboot()


@event("site-returns", lambda rng: (rng.random() < 0.5,))
def _site_returns(arena: Arena, starts: bool) -> None:
    arena.pair.net.down.clear()
    for host in HOSTS:
        arena.pair.power_on(host, starts=starts)
    for runner in arena.sim_runners.values():
        runner.boot()


@event("host-off", one_of(*HOSTS))
def _host_off(arena: Arena, host: str) -> None:
    arena.pair.power_off(host)


@event("host-on", lambda rng: (rng.choice(HOSTS), rng.random() < 0.5))
def _host_on(arena: Arena, host: str, starts: bool) -> None:
    arena.pair.power_on(host, starts=starts)


@event("host-freezes", one_of(*HOSTS))
def _host_freezes(arena: Arena, host: str) -> None:
    arena.pair.freeze(host)


@event("host-thaws", one_of(*HOSTS))
def _host_thaws(arena: Arena, host: str) -> None:
    arena.pair.thaw(host)


@event("agent-freezes", one_of(*HOSTS))
def _agent_freezes(arena: Arena, host: str) -> None:
    arena.pair.hosts[host].process.freeze()


@event("agent-dies", one_of(*HOSTS))
def _agent_dies(arena: Arena, host: str) -> None:
    arena.pair.kill_agent(host)


@event("agent-returns", one_of(*HOSTS))
def _agent_returns(arena: Arena, host: str) -> None:
    it = arena.pair.hosts[host]
    if it.up and it.process.dead:
        arena.pair.boot_agent(host)


@event("agent-disk", lambda rng: (rng.choice(HOSTS), rng.random() < 0.6))
def _agent_disk(arena: Arena, host: str, full: bool) -> None:
    arena.pair.hosts[host].disk.full = full


@event("edge-fails", lambda rng: (rng.choice(HOSTS), rng.random() < 0.7))
def _edge_fails(arena: Arena, host: str, fails: bool) -> None:
    arena.pair.hosts[host].edge.fails = fails


@event("edge-flushed", one_of(*HOSTS))
def _edge_flushed(arena: Arena, host: str) -> None:
    """Somebody flushed the rules of a host that serves; its agent looks at them again before anything else happens."""
    it = arena.pair.hosts[host]
    if it.agent.grant is None or it.process.dead or it.process.frozen:
        return  # without the agent's next look nothing closes such a host: no lease proves that, and none says so
    it.edge.installed = False
    arena.loop.let_pass(0.6)


@event("fence-lies", one_of(*HOSTS))
def _fence_lies(arena: Arena, host: str) -> None:
    arena.pair.hosts[host].fence_lies = 3


@event("quorum", one_of(True, True, False))
def _quorum(arena: Arena, silent: bool) -> None:
    arena.pair.net.quorum_silent = silent


@event("lost-answer", one_of("acquire", "renew", "raise_generation", "state", "fence", "promote", "demote", "follow"))
def _lost_answer(arena: Arena, verb: str) -> None:
    arena.pair.lost_answers[verb] = 1


@event("name-server", one_of(True, True, False))
def _name_server(arena: Arena, silent: bool) -> None:
    arena.dns.silent = {"dns:53"} if silent else set()


@event("name-answer-lost")
def _name_answer_lost(arena: Arena) -> None:
    arena.dns.lose_next_answer = True


# links and runners


@event("link-cut", lambda rng: (rng.choice(RUNNERS), rng.choice(VERBS), rng.randint(1, 3)))
def _link_cut(arena: Arena, ref: str, verb: str, times: int) -> None:
    arena.sim_runners[ref].cuts += [verb] * times


@event("arrive")
def _arrive(arena: Arena) -> None:
    for runner in arena.sim_runners.values():
        runner.arrive()


@event("runner-reboots", one_of(*RUNNERS))
def _runner_reboots(arena: Arena, ref: str) -> None:
    arena.sim_runners[ref].reboot()
    arena.sim_runners[ref].boot()


@event("runner-off", one_of(*RUNNERS))
def _runner_off(arena: Arena, ref: str) -> None:
    arena.sim_runners[ref].reboot()


@event("job-dies-at", lambda rng: (rng.choice(RUNNERS), rng.randint(0, 30)))
def _job_dies_at(arena: Arena, ref: str, boundary: int) -> None:
    arena.sim_runners[ref].dies_at = boundary


@event("runner-full", lambda rng: (rng.choice(RUNNERS), rng.random() < 0.6))
def _runner_full(arena: Arena, ref: str, full: bool) -> None:
    arena.sim_runners[ref].full = full
    for job in arena.sim_runners[ref].jobs.values():
        job.journal.full = full


@event("forge", lambda rng: (rng.choice(RUNNERS), rng.choice(list(FORGERIES))))
def _forge(arena: Arena, ref: str, how: str) -> None:
    arena.sim_runners[ref].forging = FORGERIES[how]


@event("host-key", lambda rng: (rng.choice(RUNNERS), rng.random() < 0.6))
def _host_key(arena: Arena, ref: str, changed: bool) -> None:
    arena.sim_runners[ref].host_key_changed = changed


# people


def newest(arena: Arena) -> DispatchRequest | None:
    """The request that somebody answers."""
    found = arena.records("requests", DispatchRequest)
    return found[-1] if found else None


def say(arena: Arena, by: str, verdict: str = "grant", **changes: Any) -> None:
    """One more file in the folder, if there is a request to speak of."""
    if newest(arena) is None:
        return
    more = {"accepted_loss": "1 s", "note": "it burns"} if verdict == "break-glass" else {}
    try:
        arena.say_yes(by, verdict, **more, **changes)
    except HyopsError:
        return  # the same words in the same second


@event("approve", one_of("ada", "ada", "bob"))
def _approve(arena: Arena, by: str) -> None:
    say(arena, by)


@event("say", lambda rng: (rng.choice(PEOPLE), rng.choice(("grant", "reject", "withdraw", "break-glass"))))
def _say(arena: Arena, by: str, verdict: str) -> None:
    say(arena, by, verdict)


@event("approve-late", one_of("ada", "bob"))
def _approve_late(arena: Arena, by: str) -> None:
    now = arena.clock.now()
    say(arena, by, signed_at=now - timedelta(hours=1), expires_at=now + timedelta(seconds=0.3))


@event("approve-expired", one_of("ada", "bob"))
def _approve_expired(arena: Arena, by: str) -> None:
    now = arena.clock.now()
    say(arena, by, signed_at=now - timedelta(hours=1), expires_at=now - timedelta(seconds=1))


@event("approve-old", one_of("ada", "bob"))
def _approve_old(arena: Arena, by: str) -> None:
    now = arena.clock.now()
    say(arena, by, signed_at=now - timedelta(hours=3), expires_at=now + timedelta(hours=3))


@event("approve-future", one_of("ada", "bob"))
def _approve_future(arena: Arena, by: str) -> None:
    now = arena.clock.now()
    say(arena, by, signed_at=now + timedelta(hours=3), expires_at=now + timedelta(hours=4))


@event("approve-foreign", one_of("request_digest", "plan_digest"))
def _approve_foreign(arena: Arena, what: str) -> None:
    say(arena, "ada", **{what: "sha256:" + "0" * 64})


@event("approve-as", one_of("ada", "bob"))
def _approve_as(arena: Arena, claimed: str) -> None:
    say(arena, "eve", approver=claimed)


@event("approve-zero", one_of("empty", "torn"))
def _approve_zero(arena: Arena, how: str) -> None:
    arena.disk["approvals"].broken[f"approval-{how}.json"] = how


@event("approve-copied")
def _approve_copied(arena: Arena) -> None:
    records = arena.disk["approvals"].records
    if records:
        records.setdefault("approval-copy", records[min(records)])


@event("approve-edited")
def _approve_edited(arena: Arena) -> None:
    if newest(arena) is None:
        return
    try:
        approval = arena.say_yes("mallory", approver="ada")
    except HyopsError:
        return
    records = arena.disk["approvals"].records
    records[approval.approval_id] = records[approval.approval_id].replace(b'"ada"', b'"bob"')


@event("stand", lambda rng: (rng.choice(("ada", "bob", "eve")), rng.choice((1, 30, 9000))))
def _stand(arena: Arena, by: str, days: int) -> None:
    try:
        arena.stand(by, expires_at=arena.clock.now() + timedelta(days=days))
    except HyopsError:
        return


@event("ask", lambda rng: (rng.choice(("ada", "carl")), rng.choice(list(Occasion)[:2])))
def _ask(arena: Arena, who: str, occasion: str) -> None:
    """`hyops decision request`, there or back, as the service stands."""
    mode = arena.stages[0]["decision"].mode
    kind = DecisionType.FAILOVER if mode.primary == arena.policy.preferred else DecisionType.FAILBACK
    asked = Asked(decision_type=kind, occasion=Occasion(occasion), rationale="upgrade", requested_by=who)
    try:
        known = asked_inputs(arena.policy, mode, asked, arena.clock.now())
        decision = sign_record(operator_decision(known), KEYS["decision"])
        record_once(arena.disk["decisions"], arena.disk["inputs"], decision, known, VERIFIER)
    except HyopsError as exc:
        arena.met("not-asked", type(exc).__name__)


@event("handwritten", lambda rng: (rng.choice(("failover", "failback", "cutover")), rng.random() < 0.5))
def _handwritten(arena: Arena, kind: str, degraded: bool) -> None:
    status = CheckStatus.BAD if degraded else CheckStatus.OK
    decision = Decision.of(
        {
            "decision_id": f"synthetic-{len(arena.disk['decisions'].records)}",
            "decision_type": kind,
            "rationale": "by hand",
            "service": "pg",
            "generation": arena.stages[0]["decision"].mode.generation,
            "checks": [{"name": "target.disk", "status": str(status)}],
        }
    )
    try:
        arena.disk["decisions"].create(decision.decision_id, decision.encoded())
    except HyopsError:
        return


@event("remove-handwritten")
def _remove_handwritten(arena: Arena) -> None:
    """DSP-3: the record and its request are removed again, where nothing was made of them yet."""
    for name in [n for n in arena.disk["decisions"].records if n.startswith("synthetic-")]:
        for request in arena.records("requests", DispatchRequest):
            if request.source_decision_id != name:
                continue
            if b"".join(arena.disk["executions"].records.values()).find(request.dispatch_id.encode()) >= 0:
                return
            del arena.disk["requests"].records[request.dispatch_id]
        del arena.disk["decisions"].records[name]


@event("forged-request")
def _forged_request(arena: Arena) -> None:
    """A byte of a stored request is changed, and everything is read anew."""
    records = arena.disk["requests"].records
    for name in list(records)[-1:]:
        if b"".join(arena.disk["executions"].records.values()).find(name.encode()) < 0:
            records["forged-" + name[:40]] = records[name].replace(b"awaiting-approval", b"queued")


@event("edited-plan")
def _edited_plan(arena: Arena) -> None:
    """A byte of a stored plan is changed after it was approved."""
    records = arena.disk["plans"].records
    for name in list(records):
        records[name] = records[name].replace(b'"optional":true', b'"optional":false')


@event("hold", one_of(5.0, 60.0))
def _hold(arena: Arena, seconds: float) -> None:
    arena.say_hold(until=arena.clock.now() + timedelta(seconds=seconds))


@event("unhold")
def _unhold(arena: Arena) -> None:
    arena.end_holds()

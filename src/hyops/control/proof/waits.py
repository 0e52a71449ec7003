"""What a policy's numbers mean together: windows, ages, thresholds, cooldown, and how long its waits take (DEC-4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urlsplit

from hyops.control.checks import is_wal
from hyops.control.proof.doors import door
from hyops.control.proof.rules import Finding, Where
from hyops.control.proof.situation import NOW
from hyops.control.window import judged
from hyops.fence.ladder import AGENT_LIMIT_S, HEAD_START_S, POWER_SETTLE_S, PROBE_LIMIT_S
from hyops.model.policy import ServicePolicy, Signal
from hyops.model.signal import Sample
from hyops.model.vocabulary import CheckStatus, ReceiptClass

MARGIN_LEAST_S = 0.1  # an update of the firewall takes 20 ms, a late timer as long again
MARGIN_SHARE = 0.01  # twenty times what NTP lets a clock run apart
QUORUM_MEMBERS_MIN = 3
SLACK_S = 1e-9
ASKED_MAX_S = 3600.0  # a quota or a bill changes over hours; of a target, even that is no present any more
LIVES_MAX_S = 3600.0  # as long as a request lives at most, where the dispatcher's `max_age_s` says no more
TTL_MAX_S = 300.0  # who has waited that long for a name has called somebody
ANSWER_LEAST_S = 60.0  # to be told, to read, and to touch a key


@dataclass(frozen=True)
class Wait:
    """One part of a sum: where the seconds come from."""

    what: str
    seconds: float


def sum_of(waits: list[Wait]) -> str:
    """`confirm_for_s 1.2 + lease.ttl_s 2 = 3.2 s`."""
    parts = " + ".join(f"{wait.what} {wait.seconds:g}" for wait in waits if wait.seconds)
    return f"{parts} = {round(sum(wait.seconds for wait in waits), 3):g} s"


def weighty(policy: ServicePolicy) -> list[tuple[int, Signal]]:
    """The probed signals about the primary that have a say, with their place in the file."""
    return [(i, s) for i, s in enumerate(policy.signals) if s.about == "primary" and s.vantages and s.weight > 0]


def waits_of(policy: ServicePolicy) -> list[Wait]:
    """From the loss of the primary to the moment in which the standby may be promoted, people not counted."""
    looks = [signal for _, signal in weighty(policy)]
    seen = [
        Wait("interval_s", max((signal.interval_s for signal in looks), default=0.0)),
        Wait("confirm_for_s", policy.confirm_for_s),
        Wait("timeout_s", max((signal.timeout_s for signal in looks), default=0.0)),
    ]
    wal_s = max((_wal_s(signal) for signal in policy.signals if is_wal(signal)), default=0.0)
    fresh = Wait("WAL still fresh", max(0.0, wal_s - sum(wait.seconds for wait in seen)))
    return [*seen, fresh, *_fence_waits(policy)]


def _wal_s(signal: Signal) -> float:
    """How long after the last WAL the signal can say that WAL arrives: the newest look but one was just in time, and
    the next one takes long; or a vantage point was lost with the site, and its last word stands until it is too old.
    """
    return max(signal.threshold + signal.interval_s + signal.timeout_s, signal.max_age_s)


def _fence_waits(policy: ServicePolicy) -> list[Wait]:
    """Of the receipts that can be had of a lost site, the one that the ladder waits for."""
    if ReceiptClass.LEASE_EXPIRED in policy.receipts:
        return [
            Wait("lease.ttl_s", policy.lease.ttl_s),
            Wait("lease.margin_s", policy.lease.margin_s),
            Wait("fence probe", PROBE_LIMIT_S),
        ]
    if ReceiptClass.POWERED_OFF in policy.receipts:
        return [Wait("head start", HEAD_START_S), Wait("power settles", POWER_SETTLE_S), Wait("probe", PROBE_LIMIT_S)]
    return [Wait("fence agent", AGENT_LIMIT_S), Wait("fence probe", PROBE_LIMIT_S)]


def numbers(policy: ServicePolicy) -> Iterator[Finding]:
    """Every finding about the policy's numbers."""
    for index, signal in enumerate(policy.signals):
        for rule, key, message, told in _signal(signal):
            yield Finding(rule, ("signals", index, key), message, told)
    for index, signal in weighty(policy):
        yield from _window(policy.confirm_for_s, ("confirm_for_s",), index, signal)
    for index, signal in enumerate(policy.signals):
        if signal.about == "target":
            yield from _target(policy, index, signal)
        if signal.about == "pressure" and signal.weight > 0 and policy.burst is not None:
            yield from _window(policy.burst.confirm_for_s, ("burst", "confirm_for_s"), index, signal)
    yield from _pauses(policy)
    yield from _kept(policy)
    yield from _lease(policy)


def _signal(signal: Signal) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """A value that stands still must not make the signal change; judged by the real thresholds."""
    if signal.leave_threshold is None:
        return
    for value in (signal.threshold, signal.leave_threshold, (signal.threshold + signal.leave_threshold) / 2):
        said: list[CheckStatus] = [CheckStatus.OK]
        for sequence in range(4):
            sample = Sample(vantage="table", signal=signal.name, sequence=sequence, taken_at=NOW, value=value)
            said.append(judged(sample, signal, said[-1])[0])
        if len({(a, b) for a, b in pairwise(said) if a is not b}) > 1:
            line = f"{signal.comparator} {signal.threshold:g}, leave {signal.leave_threshold:g}"
            text = f"{signal.name} ({line}): with {value:g}, and no change, it is {', '.join(said[1:])}"
            yield "flap/leave-threshold", "leave_threshold", text, {signal.name: f"{value:g} all the time"}
            return


def _window(confirm_s: float, window: Where, index: int, signal: Signal) -> Iterator[Finding]:
    needed_s, word = 2 * signal.interval_s + signal.timeout_s, key_of(window)
    if confirm_s + SLACK_S < needed_s:
        text = (
            f"{word} {confirm_s:g} is less than 2 x interval_s {signal.interval_s:g} + timeout_s "
            f"{signal.timeout_s:g} = {needed_s:g} s of {signal.name}"
        )
        blip = {signal.name: f"no answer to two looks that overlap, {signal.interval_s:g} s apart"}
        yield Finding("confirm/short", window, text, blip)
    if signal.max_age_s > confirm_s + SLACK_S:
        text = f"max_age_s {signal.max_age_s:g} of {signal.name} is more than {word} {confirm_s:g}"
        silence = {signal.name: f"bad twice, then nothing at all until {confirm_s:g} s have passed"}
        yield Finding("confirm/stale", ("signals", index, "max_age_s"), text, silence)
    yield from _often(index, signal, "bad for an hour, each sample half an interval late")


def _often(index: int, signal: Signal, told: str) -> Iterator[Finding]:
    """Between two looks, and with one of them lost, the last sample must not be too old."""
    if signal.max_age_s + SLACK_S < 2 * signal.interval_s:
        text = f"max_age_s {signal.max_age_s:g} of {signal.name} is less than 2 x interval_s {signal.interval_s:g}"
        yield Finding("confirm/never", ("signals", index, "max_age_s"), text, {signal.name: told})


def _target(policy: ServicePolicy, index: int, signal: Signal) -> Iterator[Finding]:
    """A look at the target is there whenever it is asked for, and is from after the loss (FAULTS 4, 5)."""
    yield from _often(index, signal, "looked at so seldom that most of the time nothing is known of it")
    most_s, what = (policy.confirm_for_s, "confirm_for_s ") if signal.vantages else (ASKED_MAX_S, "")
    if signal.max_age_s > most_s + SLACK_S:
        most = f"{what}{most_s:g}"
        text = f"max_age_s {signal.max_age_s:g} of {signal.name} is more than {most}"
        dead = {signal.name: f"ok, then the target is lost, {signal.max_age_s:g} s before it is promoted"}
        yield Finding("target/stale", ("signals", index, "max_age_s"), text, dead)


def _pauses(policy: ServicePolicy) -> Iterator[Finding]:
    if policy.stable_for_s < policy.confirm_for_s:
        text = f"stable_for_s {policy.stable_for_s:g} is less than confirm_for_s {policy.confirm_for_s:g}"
        told = {"every signal": f"good for {policy.stable_for_s:g} s"}
        yield Finding("flap/stable", ("stable_for_s",), text, told)
    waits = waits_of(policy)
    total_s = sum(wait.seconds for wait in waits)
    if policy.cooldown_s < total_s:
        text = f"cooldown_s {policy.cooldown_s:g} is less than a switch takes by itself: {sum_of(waits)}"
        told = {"primary": f"lost again {policy.cooldown_s:g} s after a switch"}
        yield Finding("flap/cooldown", ("cooldown_s",), text, told)
    burst = policy.burst
    if burst is not None and burst.cooldown_s < burst.confirm_for_s:
        text = f"burst.cooldown_s {burst.cooldown_s:g} is less than burst.confirm_for_s {burst.confirm_for_s:g}"
        told = {"pressure": "gone with the step before, and counted for the next one all the same"}
        yield Finding("flap/cooldown", ("burst", "cooldown_s"), text, told)
    if policy.decision_max_age_s < ANSWER_LEAST_S:
        text = f"decision_max_age_s {policy.decision_max_age_s:g} is less than the {ANSWER_LEAST_S:g} s of an answer"
        yield Finding("decision/short-lived", ("decision_max_age_s",), text, {"primary": "lost, people asked at once"})
    if policy.decision_max_age_s > LIVES_MAX_S:
        text = f"decision_max_age_s {policy.decision_max_age_s:g} is more than {LIVES_MAX_S:g} s"
        told = {"primary": "lost, nobody answers, and it comes back and is lost again, or it stays lost"}
        yield Finding("decision/long-lived", ("decision_max_age_s",), text, told)
    if policy.rto_s is not None and policy.rto_s < total_s:
        text = f"rto_s {policy.rto_s:g} is less than the policy's own waits: {sum_of(waits)}"
        yield Finding("rto/waits", ("rto_s",), text, {"primary": "lost, everything else well, approved at once"})


def _kept(policy: ServicePolicy) -> Iterator[Finding]:
    """How long a resolver may give the old address, before and after a first move."""
    most_s, moved = max(TTL_MAX_S, policy.rto_s or 0.0), policy.cutover_policy
    for key, ttl_s in (("endpoint", policy.endpoint.ttl_s), ("cutover_policy", moved.ttl_s if moved else None)):
        if ttl_s is not None and ttl_s > most_s:
            text = f"{key}.ttl_s {ttl_s:g} is more than {most_s:g} s"
            told = {policy.endpoint.name: f"asked for just before the switch, and kept for {ttl_s:g} s"}
            yield Finding("endpoint/ttl", (key, "ttl_s"), text, told)


def _lease(policy: ServicePolicy) -> Iterator[Finding]:
    lease = policy.lease
    if not lease.endpoints:
        return
    least_s = max(MARGIN_LEAST_S, lease.ttl_s * MARGIN_SHARE)
    if ReceiptClass.LEASE_EXPIRED in policy.receipts and lease.margin_s + SLACK_S < least_s:
        text = f"margin_s {lease.margin_s:g} for a ttl_s of {lease.ttl_s:g}: at least {least_s:g} s"
        told = {"old primary": f"its clock {MARGIN_SHARE:.0%} slow, or its edge {MARGIN_LEAST_S:g} s late"}
        yield Finding("lease/margin", ("lease", "margin_s"), text, told)
    distinct = {_host_of(endpoint) for endpoint in lease.endpoints}
    if lease.on_loss == "self-fence" and len(distinct) < QUORUM_MEMBERS_MIN:
        text = f"etcd on {len(distinct)} host(s): with one lost there is no quorum, and the primary fences itself"
        yield Finding("lease/quorum", ("lease", "endpoints"), text, {"etcd": "one member is restarted"})


def _host_of(endpoint: str) -> str:
    """The host of an etcd member behind a URL, however it is spelled; several members of one host are lost as one."""
    try:
        host = urlsplit(endpoint.strip()).hostname or ""
    except ValueError:
        return endpoint
    return door(host or endpoint, 0)[0]


def key_of(where: Where) -> str:
    """The path as people read it: `signals.2.max_age_s`."""
    return ".".join(str(part) for part in where) or "(top)"

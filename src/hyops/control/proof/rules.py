"""What a policy is refused for: each rule with what it objects to, why, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyops.control.proof.rules_of_routes import OF_ROUTES, Rule

Where = tuple[str | int, ...]


@dataclass(frozen=True)
class Finding:
    """One way in which a policy is unsafe. `where`: the key that makes it so; `input`: the counterexample, in words.

    `of_routes`: the key is one of the routes' file.
    """

    rule: str
    where: Where
    message: str
    input: Mapping[str, str]
    of_routes: bool = False

    @property
    def mend(self) -> str:
        """What to do instead."""
        return RULES[self.rule].mend


RULES = {
    rule.id: rule
    for rule in (
        Rule(
            "act/unknown",
            "Something is done although nothing is known",
            "Silence is no proof: a probe that failed, a stale or absent series say nothing about the primary.",
            "declare `absence: bad` only where a missing series is the failure, and let probes from outside decide",
        ),
        Rule(
            "act/unconfirmed",
            "Something is done after a loss that nothing confirmed",
            "One lost packet, or a blip that ends by itself, moves the service and cuts every client off.",
            "raise confirm_for_s to two sample intervals and a time-out, at least",
        ),
        Rule(
            "act/one-vantage",
            "One vantage point alone decides",
            "What one place cannot reach may be served well everywhere else: its own link is the likelier fault.",
            "set quorum to 2 or more, and give signals vantage points enough",
        ),
        Rule(
            "act/one-signal",
            "One look that is not at the database decides alone",
            "A firewall rule, a DNS change or an exporter that was upgraded looks like a lost database. Two signals "
            "about the port, or two queries of one Prometheus, are one look.",
            "watch the database itself (source: postgresql) with more weight, and raise confidence_min",
        ),
        Rule(
            "act/wal-arriving",
            "The standby is promoted while it receives WAL",
            "WAL comes from a primary that lives: the path to it is broken, and promoting makes two primaries.",
            "watch wal_received on the standby (about: target), from the vantage points of the target's site",
        ),
        Rule(
            "act/target-unknown",
            "Something is done although nothing is known of the target",
            "A standby that nobody looked at may be gone, full, or weeks behind: then there are none instead of one.",
            "add signals about the target: standby, lag_bytes or wal_received",
        ),
        Rule(
            "act/target-bad",
            "Something is done although the target is not ready",
            "A degraded target turns one lost site into two.",
            "keep the check about the target among the signals; a bad one denies",
        ),
        Rule(
            "act/blocked",
            "Something is done during a run, before its outcome is known, or in maintenance",
            "Two runs on one service undo each other, and people in maintenance cut off the primary on purpose.",
            "this is a fault of hyops, not of the policy: report it with the situation",
        ),
        Rule(
            "act/repeated",
            "The same is decided again although it has just been decided",
            "Every further decision asks people again, or moves the service again.",
            "this is a fault of hyops, not of the policy: report it with the situation",
        ),
        Rule(
            "act/contradiction",
            "Two decisions that contradict each other are possible in one situation",
            "Where the target depends on who is asked, the service may be promoted in two places.",
            "name the preferred member first; with three members say which one a failover goes to",
        ),
        Rule(
            "act/failback-alone",
            "The way back starts by itself",
            "The old site has just failed; going back before people have looked risks a second outage.",
            "leave failback recommended; people start it",
        ),
        Rule(
            "table/too-large",
            "The table of situations cannot be made complete",
            "What was not looked at is not proved; of a part of the situations the other findings are told.",
            "leave out those of the named signals or vantage points that the others decide without; a signal that is "
            "only for people to see needs weight 0; or live with a proof of a part",
        ),
        Rule(
            "table/unsound",
            "A situation does not follow from its class",
            "The proof reduced situations to classes, and one that was drawn at random behaves differently.",
            "this is a fault of hyops, not of the policy: report it with the situation",
        ),
        Rule(
            "signal/well-is-bad",
            "What a look says while all is well is taken for bad",
            "A healthy primary counts as lost: as soon as replication stalls it is replaced while it takes writes.",
            "postgresql (primary, standby), tcp, dns, http: 1 is well and 0 is not, so leave comparator and thresholds "
            "out; wal_received and lag_bytes: lte, above 0, about the target",
        ),
        Rule(
            "signal/lost-is-ok",
            "What a look says of a loss is taken for ok",
            "A dead primary is never seen, or a target that is not there is promoted.",
            "postgresql (primary, standby), tcp, dns, http: 1 is well and 0 is not, so leave comparator and thresholds "
            "out; wal_received and lag_bytes: lte, seconds or bytes that can be exceeded, about the target",
        ),
        Rule(
            "signal/failure-is-ok",
            "A server that fails is taken for well",
            "A server whose database is gone, or a balancer without one, still answers, with 500 or more: nobody ever "
            "hears from this look that the primary is lost.",
            "leave what a server says when it fails (500 to 599) out of expect.status, or name with expect.contains "
            "the words that it says only while it is well; a signal that is only for people to see needs weight 0",
        ),
        Rule(
            "member/one-address",
            "Two members have one address",
            "One machine is looked at for both: it is its own standby, and with its loss there is none.",
            "give each member the address and port of its own database",
        ),
        Rule(
            "member/one-site",
            "A member and the one that replaces it stand in one site",
            "What takes the site takes both: nothing is left to promote.",
            "put the standby into another site, or write where it really stands",
        ),
        Rule(
            "member/runner-lost",
            "The runner of a switch is lost with the site that it leaves",
            "The loss is seen, decided and approved, and nobody is there to run it.",
            "give each member a runner in its own site; for one in a third site write options.vantage_sites: "
            "{RUNNER: SITE}",
        ),
        Rule(
            "site/loss-undecided",
            "The loss of the primary's site is never decided",
            "The vantage points that are lost with the site are needed for the quorum: the switch never comes.",
            "put vantage points outside of the site, at least as many as quorum says",
        ),
        Rule(
            "vantage/one-site",
            "All vantage points stand in one site, or enough of them to decide against all others",
            "One broken uplink there blinds them all at once, and looks like a lost primary.",
            "spread vantage points over two sites or more, none of them only the primary's; or raise quorum and "
            "confidence_min, so that those of one site are outvoted",
        ),
        Rule(
            "vantage/unplaced",
            "Nobody says where a vantage point stands",
            "Whether a quorum survives the loss of a site, or is fooled by one, cannot be shown.",
            "write options.vantage_sites: {NAME: SITE}; hosts and runners of members have their site already",
        ),
        Rule(
            "wal/unwatched",
            "Nobody watches whether the standby still receives WAL",
            "A broken path to the primary and a dead primary look the same from outside; only the standby knows.",
            "add {source: postgresql, query: wal_received, about: target, comparator: lte, threshold: SECONDS}",
        ),
        Rule(
            "confirm/short",
            "The confirm window is shorter than two sample intervals and a time-out",
            "Overlapping looks that fail for one and the same blip confirm each other.",
            "confirm_for_s >= 2 x interval_s + timeout_s of every signal with weight",
        ),
        Rule(
            "confirm/stale",
            "A sample may be older than the confirm window",
            "Two failed looks and then silence count as a loss that was seen all along.",
            "max_age_s <= confirm_for_s for every signal about the primary with weight",
        ),
        Rule(
            "confirm/never",
            "Samples are too old before the next one comes",
            "Every look begins a new stretch, so nothing is ever confirmed and no switch ever comes.",
            "max_age_s >= 2 x interval_s",
        ),
        Rule(
            "flap/leave-threshold",
            "The leave threshold is on the wrong side",
            "A value that does not change makes the signal bad and good in turns.",
            "gte: leave_threshold >= threshold; lte: leave_threshold <= threshold",
        ),
        Rule(
            "flap/stable",
            "Stable takes less time than lost",
            "A service that is good for a moment is offered the way back, before a loss could even be seen.",
            "stable_for_s >= confirm_for_s, better minutes",
        ),
        Rule(
            "flap/cooldown",
            "The cooldown is shorter than a switch takes",
            "The next switch is decided while clients still find their way to the last one.",
            "cooldown_s >= the sum that the message shows",
        ),
        Rule(
            "maintenance/always",
            "Maintenance never ends",
            "The loop holds still in every window: with one always open, a lost primary is never replaced.",
            "leave hours out in which no window is open; to hold a service for longer, sign a hold with an end",
        ),
        Rule(
            "rto/waits",
            "The policy's own waits are longer than the objective",
            "The objective is missed in every run, before anybody has approved or anything was promoted.",
            "shorten the largest wait of the sum, or state an rto_s that can be met",
        ),
        Rule(
            "endpoint/ttl",
            "Clients may keep the old address for longer than anybody waits",
            "The switch is over, and they still write to where nothing is, or to what was fenced.",
            "ttl_s <= 300, or <= rto_s where that is more; better half a minute, as it is when left out",
        ),
        Rule(
            "lease/margin",
            "The lease's margin is too small for its length",
            "Two clocks that run apart by little, or one slow firewall update, and the old primary outlives its lease.",
            "margin_s >= 0.1, and >= a hundredth of ttl_s",
        ),
        Rule(
            "lease/quorum",
            "The lease stands on fewer than three hosts",
            "With the loss of one etcd member every healthy primary fences itself.",
            "name three endpoints on three hosts, in three failure domains, at most one of them in the primary's site",
        ),
        Rule(
            "fence/unobtainable",
            "No receipt that the policy accepts can be had when the primary's site is lost",
            "`observed` needs an answer from the lost host; `attested` and `break-glass` prove nothing by themselves: "
            "the switch stops half-way, or people wave it through.",
            "accept lease-expired (with a lease and on_loss: self-fence) or powered-off",
        ),
        *OF_ROUTES,
        Rule(
            "mode/deny",
            "Every switch of the service is denied",
            "The table reads like that of any other service, and when the primary is lost nothing comes of it.",
            "name the dr_mode of its standby; to keep a service as it is for a while, sign a hold with an end; to only "
            "watch it, write level: monitor",
        ),
        Rule(
            "failback/option",
            "The failback option is none",
            "Somebody thinks that the way back goes by itself, or not at all; neither is so.",
            "failback: never, or leave it out: then it is recommended, and people start it",
        ),
        Rule(
            "burst/beside",
            "A burst is decided beside a switch, another burst, or while the primary is lost",
            "Capacity is bought for a service that is about to move, and its run stands in the way of the move.",
            "this is a fault of hyops, not of the policy: report it with the situation",
        ),
        Rule(
            "target/stale",
            "A check of the target may be older than what is decided with it",
            "Whatever took the primary may have taken the target too, and only a look from after that tells. So a "
            "probe must have looked within the confirm window. What the service asks of Prometheus, Alertmanager or "
            "a file changes more slowly, as a quota does; of it, too, an hour ago is not now.",
            "a probe about the target: max_age_s <= confirm_for_s; prometheus, alertmanager, file: max_age_s <= 3600",
        ),
        Rule(
            "member/address",
            "A member's address leads to no host of its own",
            "What is no address is never reached, and a loopback one is whichever host is just looking: each vantage "
            "point sees itself.",
            "write the IP address or the host name at which all vantage points reach the member",
        ),
        Rule(
            "maintenance/zone",
            "A maintenance window is in a time zone that this host does not know",
            "No decision service begins with such a policy, so nothing watches the service at all.",
            "write a name of the IANA database, as Europe/Berlin or UTC; on Debian it is in tzdata",
        ),
        Rule(
            "decision/long-lived",
            "A decision lives longer than what it was decided from",
            "Nobody looks at the primary again before a late yes; and where the request is over sooner, by the "
            "dispatcher's max_age_s, nothing is decided anew until the decision is over too.",
            "decision_max_age_s <= 3600, better the ten minutes that it is when left out",
        ),
        Rule(
            "decision/short-lived",
            "A decision is over before anybody can answer it",
            "People have to be told, to read what they approve and to sign: each loss is decided, expires and is "
            "decided again.",
            "decision_max_age_s >= 60, better the ten minutes that it is when left out",
        ),
    )
}

"""What the dispatcher's routes are refused for, beside what the policy is refused for (DSP-1, DSP-2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One rule; its id is what people search for."""

    id: str
    title: str
    why: str
    mend: str


OF_ROUTES = (
    Rule(
        "fence/route",
        "A route accepts weaker proof than the policy",
        "The plan is made of the route: what the policy forbids is promoted on all the same.",
        "give the route's inputs the same receipts and lease as the policy",
    ),
    Rule(
        "approval/none",
        "A triggered switch needs nobody's yes",
        "A wrong threshold is then enough to move production.",
        "leave requires_approval on, in the route or in the policy, or name approvals_required",
    ),
    Rule(
        "approval/ineffective",
        "A route frees a switch of people, and the policy does not",
        "Its word has no effect: the switch waits for a yes, and whoever relies on the route is not there to give it.",
        "leave requires_approval on in the route, or write requires_approval: false into the policy too",
    ),
    Rule(
        "route/missing",
        "No route takes the decision",
        "The loss is seen, confirmed and decided, and then ignored.",
        "add a route for the type, in this environment",
    ),
    Rule(
        "route/denied",
        "A decision is made, and its request denied",
        "The loss is seen, confirmed and decided, and then nothing comes of it, however many people say yes.",
        "mend in the route what the message says; deny_on is for checks of the target that are well in a switch",
    ),
    Rule(
        "route/env",
        "A route leads into another environment",
        "The switch runs there, and here the primary stays lost.",
        "give the route the target_env of the service",
    ),
    Rule(
        "route/runner",
        "A route's runner is lost with the site that the switch leaves, or nobody says where it stands",
        "The policy names a runner that survives, and the route's word counts: nobody is there to run the switch.",
        "give the route the runner_ref of the member that it leads to; for one in a third site write "
        "options.vantage_sites: {RUNNER: SITE} into the policy",
    ),
    Rule(
        "route/direction",
        "A route leads another way than the decision",
        "The primary that lives is fenced, and the one that was lost is promoted.",
        "source is where the service is when it is decided, target the other member",
    ),
    Rule(
        "route/inputs",
        "A route knows other members or another endpoint than the policy",
        "The plan is made of the route: other hosts are fenced and promoted than those that were watched, or "
        "clients are sent elsewhere.",
        "give the route's inputs the members and the endpoint of the policy",
    ),
)

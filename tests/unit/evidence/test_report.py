"""The page is one file, needs nothing from outside, and cannot be made to run or show what a record injects."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.evidence import report, timeline
from hyops.evidence.assemble import Story
from hyops.evidence.summary import LANES, Event, span, summarise
from hyops.evidence.verify import Verified, verify_path
from hyops.model.dsse import sign_record
from hyops.model.vocabulary import Outcome
from hyops.testing import evidence as seeds

Write = Callable[..., Path]


class Page(HTMLParser):
    """Collects tags, attributes and text; notes tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.words.append(data)


def verified(path: Path) -> Verified:
    """The bundle, checked."""
    return verify_path(path, seeds.VERIFIER, seeds.APPROVALS)


@pytest.mark.req("EVD-3")
def test_the_page_is_self_contained(bundle: Path) -> None:
    """No script, no image, font, style or link from elsewhere; a policy in the page forbids them too."""
    found = verified(bundle)
    text = report.page(found.contents, found)
    page = Page(text)

    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    targets = [v for _, attrs in page.tags for k, v in attrs.items() if k in {"href", "src", "xlink:href"}]
    assert targets
    assert all(target is not None and target.startswith("#r") for target in targets)
    assert not re.search(r"@import|https?://(?!in-toto)", text.split("</style>")[0])
    assert "default-src 'none'" in text


@pytest.mark.req("EVD-1", "EVD-3")
def test_the_page_answers_the_questions_of_the_morning_after(bundle: Path) -> None:
    """What happened, is it verified, how long, how many rows, what proved the fence, which generation, who approved."""
    found = verified(bundle)
    words = " ".join(Page(report.page(found.contents, found)).words)

    for answer in (
        "pg failed over from onprem-db to cloud-db",
        "evidence verified",
        "3.80 s",
        "18,342 acknowledged, 18,339 surviving",
        "lease-expired",
        "7 → 8",
        seeds.APPROVER,
        "no holder of generation 7 is left",
    ):
        assert answer in words


@pytest.mark.req("EVD-3")
def test_every_control_points_to_records_that_are_on_the_page(bundle: Path) -> None:
    """A link of the controls table leads to a record."""
    found = verified(bundle)
    page = Page(report.page(found.contents, found))
    ids = {attrs.get("id") for _, attrs in page.tags}

    assert {attrs["href"] for tag, attrs in page.tags if tag == "a"} <= {f"#{one}" for one in ids}
    assert all(control.seqs for control in summarise(found.contents).controls)


@pytest.mark.req("EVD-3", "RUN-6")
def test_markup_in_a_record_stays_text(story: Story, write: Write) -> None:
    """A rationale that holds markup is shown as it is written."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    request = sign_record(
        story.request.model_copy(update={"rationale": evil, "reason": evil}), seeds.STAGES["dispatch"]
    )
    bare = Story(request=request, decision=story.decision, plan=story.plan)
    found = verified(write(bare))

    text = report.page(found.contents, found)

    assert "<script" not in text
    assert "<img" not in text
    assert evil in "".join(Page(text).words)


@pytest.mark.req("EVD-3", "INV-8")
def test_a_record_turns_nothing_on_the_page(story: Story, write: Write) -> None:
    """Bidi marks, escapes and C1 controls are written out, in the headline part and in the raw records."""
    evil = "rehearsal \u202enevorppa\u2069 \x1b[8m\x9b2J"
    request = sign_record(
        story.request.model_copy(update={"rationale": evil, "reason": evil}), seeds.STAGES["dispatch"]
    )
    found = verified(write(Story(request=request, decision=story.decision, plan=story.plan)))

    text = report.page(found.contents, found)

    assert [c for c in text if c != "\n" and not c.isprintable()] == []
    assert r"rehearsal \u202enevorppa\u2069 \x1b[8m\x9b2J" in text


@pytest.mark.req("EVD-2", "EVD-3")
def test_a_page_about_unchecked_evidence_says_so(bundle: Path) -> None:
    """Silence is not proof: without verification the page claims none."""
    found = verified(bundle)
    text = report.page(found.contents, None)

    assert "evidence not verified" in text
    assert "evidence verified" not in text


@pytest.mark.req("INV-7", "EVD-3")
def test_a_refused_request_has_a_page(story: Story, write: Write) -> None:
    """Where nothing ran, the page says that nothing ran."""
    found = verified(write(Story(request=story.request, decision=story.decision)))

    assert "nothing ran" in report.page(found.contents, found)
    assert report.as_json(found.contents, found)["verdict"] == "nothing ran"


@pytest.mark.req("EVD-1", "DSP-2")
def test_the_headline_of_a_single_module_speaks_of_no_switch(story: Story, write: Write) -> None:
    """Whatever decision it answers: one module moves nothing."""
    asked = story.request
    assert asked is not None
    changed = asked.model_copy(update={"target_kind": "module", "target_ref": "native/noop", "signature": None})
    request = sign_record(changed, seeds.STAGES["dispatch"])
    summary = summarise(verified(write(Story(request=request, decision=story.decision))).contents)

    assert summary.headline == "pg: a run of native/noop that did not complete"


@pytest.mark.req("EVD-3")
def test_the_data_says_what_the_page_says(bundle: Path) -> None:
    """JSON for programs has the same verdict, numbers and timeline."""
    found = verified(bundle)
    data = report.as_json(found.contents, found)

    assert data["headline"] == "pg failed over from onprem-db to cloud-db"
    assert data["verified"] is True
    assert data["loss"]["lost"] == 3
    assert {event["lane"] for event in data["timeline"]} == set(LANES)


@pytest.mark.req("EVD-3")
def test_a_place_where_nothing_happened_has_no_lane() -> None:
    """Only the lanes that have something to show are drawn."""
    picture = timeline.svg([Event("dns", seeds.START, None, "cutover")], seeds.START, None, "")

    assert "DNS" in picture
    assert "Client" not in picture


@pytest.mark.req("EVD-3")
def test_zero_is_what_the_page_says_it_is(bundle: Path) -> None:
    """A lost site is counted from the first failed signal; where no signal failed, from the dispatch."""
    found = verified(bundle)
    lost = summarise(found.contents)

    assert "Zero is the first failed signal" in report.timeline_section(lost)
    assert "Zero is the moment it was dispatched" in report.timeline_section(replace(lost, failed=False))


@pytest.mark.req("EVD-3")
def test_a_long_wait_is_folded(story: Story) -> None:
    """Twelve minutes of waiting for an approver leave room for the four seconds that matter."""
    start = seeds.START
    minute = timedelta(minutes=12)
    events = [
        Event("control", start, None, "a"),
        Event("control", start + minute, None, "b"),
        Event("control", start + minute + timedelta(seconds=4), None, "c"),
    ]

    scale = timeline.axis([0, 720, 724], [])

    assert scale.x(724) - scale.x(720) > timeline.WIDTH / 4
    assert 'class="fold"' in timeline.svg(events, start, None, "")
    assert 'class="fold"' not in timeline.svg(events[1:], start + minute, None, "")


@pytest.mark.req("EVD-3")
@given(st.lists(st.tuples(st.floats(-5, 4000), st.integers(1, 40)), min_size=1, max_size=30))
def test_labels_of_a_lane_never_overlap_and_stay_on_the_page(points: list[tuple[float, int]]) -> None:
    """Whatever happens when, each label has its own place between the lane's name and the right edge."""
    events = [Event("control", seeds.START + timedelta(seconds=at), None, "x" * size) for at, size in sorted(points)]
    text = timeline.svg(events, seeds.START, None, "")
    boxes = []
    for x, anchor, y, label in re.findall(
        r'<text class="out" x="([\d.]+)"( text-anchor="end")? y="([\d.]+)">(x+)<', text
    ):
        width = len(label) * timeline.CHAR
        left = float(x) - width if anchor else float(x)
        boxes.append((float(y), left, left + width))

    assert len(boxes) == len(events)
    assert all(right <= timeline.WIDTH for _, _, right in boxes)
    for one, (y, left, right) in enumerate(boxes):
        for other_y, other_left, other_right in boxes[one + 1 :]:
            assert y != other_y or right <= other_left or other_right <= left


@pytest.mark.req("EVD-3")
@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "not measured"), (0.041, "0.04 s"), (43.21, "43.2 s"), (252, "4 min 12 s"), (7500, "2 h 05 min")],
)
def test_durations_read_like_a_person_says_them(seconds: float | None, text: str) -> None:
    """Precise where it matters, short where it does not; what was not measured is never zero."""
    assert span(seconds) == text


@pytest.mark.req("EVD-1")
def test_the_headline_claims_no_success_that_was_not(story: Story, write: Write) -> None:
    """A run that ended half-way is not said to have moved the service."""
    switch = seeds.failover(outcome=Outcome.FAILED)
    half = Story(
        request=switch.request,
        decision=switch.decision,
        inputs=switch.inputs,
        plan=switch.plan,
        approvals=switch.approvals,
        execution=switch.execution,
        attempt=switch.attempt,
        run_return=switch.run_return,
        outcome=switch.outcome,
    )
    summary = summarise(verified(write(replace(half))).contents)

    assert summary.headline == "pg: a failover that did not complete"
    assert (summary.verdict, summary.tone) == ("failed", "bad")
    assert summary.reason == "promoted, not switched"

"""The oracle takes every faithful run for clean, and catches each kind of violation in any of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from .evidence import Asked, Entry, Evidence, Followed, Message, Outcome, Shown
from .oracle import STATUS_AFTER, Verdict, judge, longest_wait, recovery

pytestmark = pytest.mark.faults_short

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]

few = settings(max_examples=30, deadline=None)  # drawing a whole run takes its time on a busy machine

PEOPLE = ("ana", "ben", "cyd")
ROOMS = {"lobby": frozenset(PEOPLE), "attic": frozenset({"ana", "ben"})}


@st.composite
def faithful_runs(draw: st.DrawFn) -> Evidence:
    """The evidence of a system without a fault; outcomes may be unknown, with an effect or without."""
    asked: list[Asked] = []
    entries: list[Entry] = []
    messages: list[Message] = []
    orders: dict[tuple[str, str], str] = {}
    heads: dict[str, int] = {}

    def append(stream: str, action: str, data: dict[str, object]) -> int:
        heads[stream] = heads.get(stream, 0) + 1
        entries.append(Entry(stream, heads[stream], action, data))
        return heads[stream]

    for room in ROOMS:
        append(f"chat:{room}", "chat.joined", {"room": room, "user": "ana"})
    followed = [
        Followed(f"{user}-{device}", stream, since)
        for user in PEOPLE
        for device in (1, 2)
        for stream, since in [
            (f"order:{user}", 0),
            *((f"chat:{room}", 1) for room, members in ROOMS.items() if user in members),
        ]
    ]
    for number in range(draw(st.integers(3, 12))):
        user = draw(st.sampled_from(PEOPLE))
        known = draw(st.sampled_from([Outcome.DONE, Outcome.DONE, Outcome.UNKNOWN]))
        happened = known is Outcome.DONE or draw(st.booleans())
        tried = {one.about for one in asked if one.action == "order.cancel"}
        open_orders = [order for owner, order in orders if owner == user and order not in tried]
        action = draw(st.sampled_from(["chat.send", "order.submit", "order.cancel"]))
        if action == "order.cancel" and not open_orders:
            action = "order.submit"
        answer: dict[str, object] = {}
        token = ""
        if action == "chat.send":
            about = draw(st.sampled_from([room for room, members in ROOMS.items() if user in members]))
            token = f"said {number}"
            if happened:
                told: dict[str, object] = {"room": about, "user": user, "text": token}
                seq = append(f"chat:{about}", "chat.message", told)
                messages.append(Message(about, seq, user, token))
                answer = {"room": about, "seq": seq}
        else:
            about = f"{user}-{number}" if action == "order.submit" else open_orders[0]
            if happened:
                status = orders[user, about] = STATUS_AFTER[action]
                append(f"order:{user}", "order.updated", {"order_id": about, "status": status})
                answer = {"order_id": about, "status": status}
        asked.append(
            Asked(
                user, number, action, user, about, token, known,
                line="" if action == "chat.send" else "orders",
                answer=answer if known is Outcome.DONE else {}, asked_at=number, answered_at=number + 0.5,
            )
        )  # fmt: skip
    shown = [
        Shown(one.device, one.device[:3], entry.action, entry.stream, entry.seq, entry.data)
        for one in followed
        for entry in entries
        if entry.stream == one.stream and entry.seq > one.since
    ]
    passing = {f"wave {user}": user for user in PEOPLE}
    shown += [
        Shown(f"{user}-1", user, "wave.made", "", 0, {"token": token}) for token, user in passing.items()
    ]
    return Evidence(asked, shown, followed, entries, messages, orders, ROOMS, passing)


def without(items: Sequence[T], item: T) -> list[T]:
    place = items.index(item)
    return [*items[:place], *items[place + 1 :]]


def instead(items: Sequence[T], old: T, new: T) -> list[T]:
    return [new if item is old else item for item in items]


def pick(draw: Draw, items: Sequence[T], wanted: Callable[[T], bool] = lambda _: True) -> T:
    found = [item for item in items if wanted(item)]
    assume(found)
    chosen: T = draw(st.sampled_from(found))
    return chosen


def is_done(asked: Asked) -> bool:
    return asked.outcome is Outcome.DONE


def is_said(entry: Entry) -> bool:
    return entry.action == "chat.message"


def an_effect_is_gone(run: Evidence, draw: Draw) -> Evidence:
    asked = pick(draw, run.asked, lambda a: is_done(a) and a.action == "chat.send")

    def there(data: Mapping[str, Any]) -> bool:
        return bool(data.get("text") == asked.token)

    return replace(
        run,
        entries=[entry for entry in run.entries if not there(entry.data)],
        messages=[message for message in run.messages if message.text != asked.token],
        shown=[shown for shown in run.shown if not there(shown.data)],
    )


def an_order_is_gone(run: Evidence, draw: Draw) -> Evidence:
    order = pick(draw, sorted(run.orders))
    return replace(run, orders={name: status for name, status in run.orders.items() if name != order})


def a_row_of_the_history_is_gone(run: Evidence, draw: Draw) -> Evidence:
    return replace(run, messages=without(run.messages, pick(draw, run.messages)))


def a_push_never_came(run: Evidence, draw: Draw) -> Evidence:
    return replace(run, shown=without(run.shown, pick(draw, run.shown, lambda shown: shown.stream != "")))


def a_push_came_again(run: Evidence, draw: Draw) -> Evidence:
    return replace(run, shown=[*run.shown, pick(draw, run.shown)])


def an_effect_came_twice(run: Evidence, draw: Draw) -> Evidence:
    entry = pick(draw, run.entries, is_said)
    head = max(e.seq for e in run.entries if e.stream == entry.stream)
    again = replace(entry, seq=head + 1)
    said = Message(again.data["room"], again.seq, again.data["user"], again.data["text"])
    hearing = [one for one in run.followed if one.stream == entry.stream]
    shown = [
        Shown(one.device, one.device[:3], again.action, again.stream, again.seq, again.data)
        for one in hearing
    ]
    return replace(
        run,
        entries=[*run.entries, again],
        messages=[*run.messages, said],
        shown=[*run.shown, *shown],
    )


def two_of_one_person_swapped(run: Evidence, draw: Draw) -> Evidence:
    """Equal in storage and on every screen: only the order of the requests reveals it."""
    places = [(a, b) for a in run.messages for b in run.messages if a.seq < b.seq]
    first, second = pick(draw, places, lambda p: (p[0].room, p[0].user) == (p[1].room, p[1].user))
    texts = {first.text: second.text, second.text: first.text}

    def swapped(data: dict[str, object]) -> dict[str, object]:
        return {**data, "text": texts.get(str(data.get("text")), data.get("text"))}

    return replace(
        run,
        asked=[replace(asked, answer={}) for asked in run.asked],
        entries=[replace(e, data=swapped(dict(e.data))) if is_said(e) else e for e in run.entries],
        messages=[replace(m, text=texts.get(m.text, m.text)) for m in run.messages],
        shown=[
            replace(s, data=swapped(dict(s.data))) if s.action == "chat.message" else s for s in run.shown
        ],
    )


def two_orders_of_one_person_swapped(run: Evidence, draw: Draw) -> Evidence:
    """Two orders that one person submitted; their effects, and what is shown of them, change places."""
    places = [
        (a, b)
        for a in run.entries
        for b in run.entries
        if a.stream == b.stream and a.seq < b.seq
        and a.data.get("status") == b.data.get("status") == "submitted"
    ]  # fmt: skip
    first, second = pick(draw, places)
    data = {first.seq: second.data, second.seq: first.data}

    def swapped(one: Entry | Shown) -> Mapping[str, Any]:
        return data.get(one.seq, one.data) if one.stream == first.stream else one.data

    return replace(
        run,
        entries=[replace(entry, data=swapped(entry)) for entry in run.entries],
        shown=[replace(shown, data=swapped(shown)) for shown in run.shown],
    )


def two_pushes_swapped(run: Evidence, draw: Draw) -> Evidence:
    places = [
        (a, b)
        for a, first in enumerate(run.shown)
        for b, second in enumerate(run.shown)
        if a < b and first.stream and (first.device, first.stream) == (second.device, second.stream)
    ]
    a, b = pick(draw, places)
    shown = list(run.shown)
    shown[a], shown[b] = shown[b], shown[a]
    return replace(run, shown=shown)


def a_stranger_heard(run: Evidence, draw: Draw) -> Evidence:
    heard = pick(draw, run.shown, lambda s: s.stream == "chat:attic" or s.stream.startswith("order:"))
    return replace(run, shown=[*run.shown, replace(heard, device="eve-1", user="eve")])


def a_wave_reached_another(run: Evidence, draw: Draw) -> Evidence:
    wave = pick(draw, run.shown, lambda s: not s.stream)
    return replace(run, shown=instead(run.shown, wave, replace(wave, device="eve-1", user="eve")))


def an_answer_was_for_another(run: Evidence, draw: Draw) -> Evidence:
    asked = pick(draw, run.asked, is_done)
    wrong = {**asked.answer, ("room" if "room" in asked.answer else "order_id"): "elsewhere"}
    return replace(run, asked=instead(run.asked, asked, replace(asked, answer=wrong)))


def an_answer_names_another_place(run: Evidence, draw: Draw) -> Evidence:
    asked = pick(draw, run.asked, lambda a: is_done(a) and a.action == "chat.send")
    wrong = {**asked.answer, "seq": 1 + max(entry.seq for entry in run.entries)}
    return replace(run, asked=instead(run.asked, asked, replace(asked, answer=wrong)))


def something_right_was_refused(run: Evidence, draw: Draw) -> Evidence:
    asked = pick(draw, run.asked)
    refused = replace(asked, outcome=Outcome.REFUSED, code="unknown_action", answer={})
    return replace(run, asked=instead(run.asked, asked, refused))


def a_push_says_something_else(run: Evidence, draw: Draw) -> Evidence:
    shown = pick(draw, run.shown, lambda s: s.action == "chat.message")
    return replace(
        run, shown=instead(run.shown, shown, replace(shown, data={**shown.data, "text": "forged"}))
    )


def something_was_made_up(run: Evidence, draw: Draw) -> Evidence:
    asked = pick(draw, run.asked, is_done)
    return replace(run, asked=without(run.asked, asked))


def an_order_stands_elsewhere(run: Evidence, draw: Draw) -> Evidence:
    return replace(run, orders=dict(run.orders) | {pick(draw, sorted(run.orders)): "delivered"})


VIOLATIONS: list[tuple[str, Callable[[Evidence, Draw], Evidence]]] = [
    ("lost", an_effect_is_gone),
    ("lost", an_order_is_gone),
    ("lost", a_row_of_the_history_is_gone),
    ("lost", a_push_never_came),
    ("twice", a_push_came_again),
    ("twice", an_effect_came_twice),
    ("disorder", two_of_one_person_swapped),
    ("disorder", two_orders_of_one_person_swapped),
    ("disorder", two_pushes_swapped),
    ("strangers", a_stranger_heard),
    ("strangers", a_wave_reached_another),
    ("strangers", an_answer_was_for_another),
    ("untrue", an_answer_names_another_place),
    ("untrue", something_right_was_refused),
    ("untrue", a_push_says_something_else),
    ("untrue", something_was_made_up),
    ("untrue", an_order_stands_elsewhere),
]


@few
@given(run=faithful_runs())
def test_a_faithful_run_is_clean(run: Evidence) -> None:
    verdict = judge(run)
    assert verdict.is_clean, str(verdict)
    assert verdict.operations == len(run.asked)


@pytest.mark.parametrize(("kind", "violate"), VIOLATIONS, ids=[violate.__name__ for _, violate in VIOLATIONS])
@few
@given(data=st.data(), run=faithful_runs())
def test_each_violation_is_caught(
    kind: str, violate: Callable[[Evidence, Draw], Evidence], data: st.DataObject, run: Evidence
) -> None:
    verdict = judge(violate(run, data.draw))
    assert verdict.findings()[kind], f"not caught: {verdict}"


@few
@given(run=faithful_runs())
def test_an_announced_gap_is_not_a_loss(run: Evidence) -> None:
    """After ``incomplete``, earlier entries are not owed."""
    one = next(followed for followed in run.followed if followed.stream == "chat:lobby")
    head = max(entry.seq for entry in run.entries if entry.stream == one.stream)
    told = replace(one, restarts=[head])
    unseen = [shown for shown in run.shown if (shown.device, shown.stream) != (one.device, one.stream)]
    assert judge(replace(run, shown=unseen, followed=instead(run.followed, one, told))).is_clean


def an_operation(who: str, asked_at: float, answered_at: float) -> Asked:
    return Asked(
        who, 0, "chat.send", who, "lobby", "", Outcome.DONE, asked_at=asked_at, answered_at=answered_at
    )


def test_recovery_ends_when_the_last_user_has_an_answer_to_a_later_request() -> None:
    before = [an_operation("ana", 0.0, 9.0), an_operation("ben", 0.0, 1.0)]
    assert recovery(before, since=5.0) is None
    assert recovery([*before, an_operation("ben", 6.0, 6.5)], since=5.0) is None
    after = [*before, an_operation("ben", 6.0, 6.5), an_operation("ana", 9.0, 9.25)]
    assert recovery(after, since=5.0) == 4.25
    assert longest_wait(after) == 9.0


def test_a_verdict_reads_as_sentences() -> None:
    verdict = Verdict(operations=3, lost=[f"entry {n}" for n in range(12)])
    assert str(verdict).splitlines()[1] == "lost: entry 0"
    assert str(verdict).endswith("lost: and 2 more")

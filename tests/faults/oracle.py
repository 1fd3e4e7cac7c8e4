"""The judge: from evidence to a verdict, without I/O.

The promises that it checks:

* **lost**: an operation that was answered as done and has no effect, or an entry that a follower was never shown;
* **twice**: an effect that is there more than once, or something that was shown to a device more than once;
* **disorder**: what one person asked one after the other took effect in another order, or an entry was shown after
  a later one;
* **strangers**: something was shown to, or answered to, a user it was not for;
* **untrue**: an answer or a push that does not say what is stored; an operation that was refused though nothing was
  wrong with it, or refused and effective nevertheless; an effect without a request.

An operation whose outcome is unknown may have one effect or none.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from .evidence import Asked, Entry, Evidence, Outcome, Shown

#: The status of an order after each operation.
STATUS_AFTER: Final = {
    "order.submit": "submitted",
    "order.cancel": "cancelled",
    "order.created": "submitted",
    "order.confirmed": "confirmed",
    "order.paid": "paid",
    "order.packed": "packed",
    "order.shipped": "shipped",
    "order.delivered": "delivered",
}
_SHOWN_FINDINGS: Final = 10

#: The identity of an effect: the stream, the room or order, and the text or status.
Effect = tuple[str, str, str]


@dataclass(slots=True)
class Verdict:
    """The violations, a sentence each."""

    operations: int = 0
    unknown: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not any(self.findings().values())

    def findings(self) -> dict[str, list[str]]:
        """All findings by kind."""
        return {
            "lost": self.lost,
            "twice": self.twice,
            "disorder": self.disorder,
            "strangers": self.strangers,
            "untrue": self.untrue,
        }

    def __str__(self) -> str:
        lines = [f"{self.operations} operations, {self.unknown} of unknown outcome"]
        for kind, found in self.findings().items():
            lines += [f"{kind}: {finding}" for finding in found[:_SHOWN_FINDINGS]]
            if len(found) > _SHOWN_FINDINGS:
                lines.append(f"{kind}: and {len(found) - _SHOWN_FINDINGS} more")
        return "\n".join(lines)


def judge(evidence: Evidence, may_refuse: Collection[str] = ()) -> Verdict:
    """Weigh all of ``evidence``.

    Args:
        may_refuse: Codes of errors that were right to be given; what they refused must have no effect.
    """
    verdict = Verdict(
        operations=len(evidence.asked),
        unknown=sum(asked.outcome is Outcome.UNKNOWN for asked in evidence.asked),
    )
    effects = effects_of(evidence.entries)
    _judge_effects(evidence, effects, may_refuse, verdict)
    _judge_stored(evidence, verdict)
    _judge_order_of_effects(evidence.asked, effects, verdict)
    _judge_answers(evidence.asked, effects, verdict)
    _judge_shown(evidence, verdict)
    _judge_audience(evidence, verdict)
    return verdict


def recovery(asked: Iterable[Asked], since: float) -> float | None:
    """Seconds from ``since`` until each sender had finished an operation begun after it.

    ``None`` while one sender has not.
    """
    first: dict[str, float | None] = {}
    for operation in sorted(asked, key=lambda operation: operation.asked_at):
        done = first.setdefault(operation.who, None)
        if done is None and operation.asked_at >= since and operation.outcome is Outcome.DONE:
            first[operation.who] = operation.answered_at
    times = [time for time in first.values() if time is not None]
    return max(times) - since if first and len(times) == len(first) else None


def longest_wait(asked: Iterable[Asked]) -> float:
    """The longest that anybody waited for the outcome of one operation, in seconds."""
    return max((operation.answered_at - operation.asked_at for operation in asked), default=0.0)


def effect_of(asked: Asked) -> Effect:
    """The effect that an operation should have."""
    if asked.action == "chat.send":
        return f"chat:{asked.about}", asked.about, f"{asked.user}: {asked.token}"
    return f"order:{asked.user}", asked.about, STATUS_AFTER[asked.action]


def effects_of(entries: Sequence[Entry]) -> dict[Effect, list[int]]:
    """The seqs of each effect."""
    effects: dict[Effect, list[int]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: (entry.stream, entry.seq)):
        data = entry.data
        if entry.action == "chat.message":
            effects[entry.stream, data["room"], f"{data['user']}: {data['text']}"].append(entry.seq)
        elif entry.action == "order.updated":
            effects[entry.stream, data["order_id"], data["status"]].append(entry.seq)
    return dict(effects)


def _judge_effects(
    evidence: Evidence,
    effects: Mapping[Effect, Sequence[int]],
    may_refuse: Collection[str],
    verdict: Verdict,
) -> None:
    expected: set[Effect] = set()
    for asked in evidence.asked:
        effect = effect_of(asked)
        expected.add(effect)
        count = len(effects.get(effect, ()))
        if asked.outcome is Outcome.DONE and count == 0:
            verdict.lost.append(f"{_named(asked)} was answered, and has no effect")
        if count > 1:
            verdict.twice.append(f"{_named(asked)} has its effect {count} times, at {effects[effect]}")
        if asked.outcome is Outcome.REFUSED and (count or asked.code not in may_refuse):
            effective = " and took effect" if count else ""
            verdict.untrue.append(f"{_named(asked)} was refused with {asked.code}{effective}")
    verdict.untrue += [f"there was no request for {effect}" for effect in effects if effect not in expected]


def _judge_stored(evidence: Evidence, verdict: Verdict) -> None:
    """The streams are complete, and agree with the tables."""
    seqs: dict[str, list[int]] = defaultdict(list)
    for entry in evidence.entries:
        seqs[entry.stream].append(entry.seq)
    for stream, found in seqs.items():
        for seq, count in Counter(found).items():
            if count > 1:
                verdict.twice.append(f"{stream} has {count} entries {seq}")
        verdict.lost += [
            f"{stream} has no entry {seq}" for seq in sorted(set(range(1, max(found))) - set(found))
        ]
    said = {
        (entry.data["room"], entry.seq): (entry.data["user"], entry.data["text"])
        for entry in evidence.entries
        if entry.action == "chat.message"
    }
    stored = {(message.room, message.seq): (message.user, message.text) for message in evidence.messages}
    verdict.lost += [f"the history of {key[0]} lacks {key[1]}" for key in said.keys() - stored.keys()]
    verdict.untrue += [
        f"the history of {key[0]} has {stored[key]} at {key[1]}, and its stream {said.get(key)}"
        for key in stored
        if said.get(key) != stored[key]
    ]
    last: dict[tuple[str, str], tuple[int, str]] = {}
    for entry in evidence.entries:
        if entry.action == "order.updated":
            key = entry.stream.partition(":")[2], entry.data["order_id"]
            last[key] = max(last.get(key, (0, "")), (entry.seq, entry.data["status"]))
    for key in sorted(last.keys() | evidence.orders.keys()):
        status, pushed = evidence.orders.get(key), last.get(key, (0, None))[1]
        name = f"order {key[1]} of {key[0]}"
        if status is None:
            verdict.lost.append(f"{name} is {pushed} in its stream, and is not stored")
        elif status != pushed:
            verdict.untrue.append(f"{name} is {status}, and its stream has {pushed}")


def _judge_order_of_effects(
    asked: Sequence[Asked], effects: Mapping[Effect, Sequence[int]], verdict: Verdict
) -> None:
    """A sender whose requests follow one another gets effects in that order: within a room, within an order.

    Where they share an ordering key, all of them do.
    """
    lines: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for operation in asked:
        effect = effect_of(operation)
        for seq in effects.get(effect, ())[:1]:
            lines[operation.who, operation.line or operation.about].append((operation.number, seq))
    for (who, about), line in lines.items():
        for (first, earlier), (second, later) in pairwise(sorted(line)):
            if later < earlier:
                verdict.disorder.append(
                    f"{who} asked {first} before {second} in {about}; they are at {earlier} and {later}"
                )


def _judge_answers(asked: Sequence[Asked], effects: Mapping[Effect, Sequence[int]], verdict: Verdict) -> None:
    """An answer is about what was asked, and says where it is."""
    for operation in asked:
        if operation.outcome is not Outcome.DONE or not operation.answer:
            continue
        answer = operation.answer
        about = answer.get("room") or answer.get("order_id")
        if about != operation.about:
            verdict.strangers.append(f"{_named(operation)} was answered for {about}")
        places = effects.get(effect_of(operation), ())
        if "seq" in answer and places and answer["seq"] not in places:
            verdict.untrue.append(f"{_named(operation)} was answered with {answer['seq']}, it is at {places}")
        if "status" in answer and answer["status"] != STATUS_AFTER[operation.action]:
            verdict.untrue.append(f"{_named(operation)} was answered with {answer['status']}")


def _judge_shown(evidence: Evidence, verdict: Verdict) -> None:
    """Each follower was shown each entry after its position, once, in order, as it is stored."""
    stored = {(entry.stream, entry.seq): entry for entry in evidence.entries}
    heads: dict[str, int] = defaultdict(int)
    for entry in evidence.entries:
        heads[entry.stream] = max(heads[entry.stream], entry.seq)
    by_follower: dict[tuple[str, str], list[Shown]] = defaultdict(list)
    for shown in evidence.shown:
        if shown.stream:
            by_follower[shown.device, shown.stream].append(shown)
            entry_there = stored.get((shown.stream, shown.seq))
            if entry_there is None or (entry_there.action, entry_there.data) != (shown.action, shown.data):
                verdict.untrue.append(f"{shown.device} was shown {_place(shown)} otherwise than it is stored")
    for followed in evidence.followed:
        pushes = by_follower.pop((followed.device, followed.stream), [])
        position, seen = followed.since, set[int]()
        restarts = sorted(followed.restarts)
        for shown in pushes:
            if shown.seq in seen:
                verdict.twice.append(f"{followed.device} was shown {_place(shown)} again")
                continue
            seen.add(shown.seq)
            while restarts and position < restarts[0] < shown.seq:
                position = restarts.pop(0)
            if shown.seq < position:
                verdict.disorder.append(f"{followed.device} was shown {_place(shown)} after {position}")
            else:
                verdict.lost += _never_shown(followed.device, followed.stream, position, shown.seq - 1)
                position = shown.seq
        position = max([position, *restarts])
        verdict.lost += _never_shown(followed.device, followed.stream, position, heads[followed.stream])
    for (device, stream), pushes in by_follower.items():
        verdict.untrue.append(f"{device} was shown {len(pushes)} of {stream}, which it does not follow")


def _judge_audience(evidence: Evidence, verdict: Verdict) -> None:
    """No user was shown a push for another user."""
    passed: Counter[tuple[str, str]] = Counter()
    for shown in evidence.shown:
        domain, _, name = shown.stream.partition(":")
        if domain == "chat" and shown.user not in evidence.members.get(name, ()):
            verdict.strangers.append(f"{shown.device} was shown {_place(shown)}, a room it is not in")
        elif domain == "order" and shown.user != name:
            verdict.strangers.append(f"{shown.device} was shown {_place(shown)}")
        elif not domain:
            token = str(shown.data.get("token"))
            passed[shown.device, token] += 1
            if evidence.passing.get(token) != shown.user:
                verdict.strangers.append(f"{shown.device} was shown {token}, which is not for {shown.user}")
    verdict.twice += [
        f"{device} was shown {token} {count} times" for (device, token), count in passed.items() if count > 1
    ]


def _never_shown(device: str, stream: str, position: int, last: int) -> list[str]:
    return [f"{device} was never shown {stream} {seq}" for seq in range(position + 1, last + 1)]


def _named(asked: Asked) -> str:
    return f"{asked.action} {asked.about} {asked.token} of {asked.who} (number {asked.number})"


def _place(shown: Shown) -> str:
    return f"{shown.stream} {shown.seq}"

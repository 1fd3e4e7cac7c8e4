"""Evidence as a history of operations on logs, for a linearizability checker (judges/porcupine).

Every stream is a log, and a history has three kinds of operations on it, each with the times of its call and return:

* ``send``: what was asked, and the number that it got: the answer's where it says one, else the stored one; 0 if it
  has no effect. A user's request has its effect before its answer. A backend's event has it later, but before the
  end; so has an entry that no operation of the load asked for, such as that of a new member.
* ``see``: a device was shown an id at a number. Streams only grow, so the earliest such moment says all.
* ``read``: the whole log, in the end.

An id names one effect; a request that was sent five times is one operation.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from .evidence import Asked, Entry, Evidence, Outcome, Shown
from .oracle import Effect, effect_of, effects_of

#: The actions whose entries an operation of the load asks for.
_ASKED_FOR: Final = ("chat.message", "order.updated")

Operation = dict[str, Any]


def write(evidence: Evidence, ended: float, path: Path) -> None:
    """Write the history to ``path``, a JSON object a line.

    Args:
        ended: When the streams were read, on the clock of the evidence.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(operation) for operation in operations(evidence, ended)]
    path.write_text("".join(f"{line}\n" for line in lines))


def operations(evidence: Evidence, ended: float) -> Iterator[Operation]:
    """All operations, in any order."""
    places = effects_of(evidence.entries)
    for asked in evidence.asked:
        # A refused operation must have no effect: if it has one, the log has an entry without a send.
        if asked.outcome is not Outcome.REFUSED:
            yield _send(asked, places.get(effect_of(asked), []), ended)
    for entry in evidence.entries:
        if entry.action not in _ASKED_FOR:
            yield _operation("send", entry.stream, "a service", 0.0, ended, id=_id_of(entry), seq=entry.seq)
    logs: dict[str, list[Entry]] = {}
    for entry in sorted(evidence.entries, key=lambda entry: entry.seq):
        logs.setdefault(entry.stream, []).append(entry)
    yield from _sees(evidence, logs.keys())
    for stream, entries in logs.items():
        yield _operation("read", stream, "the end", ended, ended, ids=[_id_of(entry) for entry in entries])


def _send(asked: Asked, places: list[int], ended: float) -> Operation:
    effect = effect_of(asked)
    returned: float | None = asked.answered_at
    if asked.outcome is Outcome.UNKNOWN:
        returned = None
    elif asked.who != asked.user:
        # The answer to an event is RabbitMQ's confirm.
        returned = ended
    seq = asked.answer.get("seq") or (places[0] if places else 0)
    return _operation("send", effect[0], asked.who, asked.asked_at, returned, id=_text(effect), seq=seq)


def _sees(evidence: Evidence, streams: Any) -> Iterator[Operation]:
    first: dict[tuple[str, int, str], Shown] = {}
    for shown in evidence.shown:
        if shown.stream in streams:
            place = shown.stream, shown.seq, _id_of(Entry(shown.stream, shown.seq, shown.action, shown.data))
            if place not in first or shown.at < first[place].at:
                first[place] = shown
    for (stream, seq, name), shown in first.items():
        yield _operation("see", stream, shown.device, shown.at, shown.at, id=name, seq=seq)


def _id_of(entry: Entry) -> str:
    if entry.action not in _ASKED_FOR:
        return f"{entry.action} {entry.seq}"
    [effect] = effects_of([entry])
    return _text(effect)


def _text(effect: Effect) -> str:
    return " ".join(effect[1:])


def _operation(
    kind: str, key: str, client: str, call: float, returned: float | None, **rest: Any
) -> Operation:
    back = None if returned is None else round(returned * 1e9)
    return {"kind": kind, "key": key, "client": client, "call": round(call * 1e9), "return": back, **rest}

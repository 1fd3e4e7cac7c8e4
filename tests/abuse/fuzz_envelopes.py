"""Envelopes through both JSON readers: ``python -m tests.abuse.fuzz_envelopes '{…}'``.

The gateway reads an envelope with pydantic (:func:`parse`) and passes its text on; the service reads that text with
msgspec (:func:`read_command`) and checks the value (:func:`read`). Promised:

* Whatever comes is accepted or refused with a :class:`BadEnvelope`; nothing else is raised.
* What the gateway accepts the service can read, with the same id, action, key and version: else one client could
  spoil the batch that its command travels in.
* The two readers agree on what is an envelope; only JSON that is nested deeper than 190 levels may be refused by the
  gateway's alone.
* What the gateway only passes on it reads with :func:`check`, which agrees with :func:`parse` but for that depth.
"""

import contextlib
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from towpath.protocol.envelope import Envelope, check, parse, read
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import Session, encode, join_batch, read_command, split_batch, wrap_command

from .mutations import Mutator

_SESSION: Final = encode(Session("eve", "c1", "gw1"))
_TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_SHOWN: Final = 20
_DEEP: Final = 190
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


@dataclass(slots=True)
class Findings:
    """The results.

    Attributes:
        deep: Refused by the gateway's reader alone, since they are nested deeper than it reads.
        wrong: Broken promises, with the bytes; the first twenty of each kind.
    """

    accepted: int = 0
    refused: int = 0
    deep: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, text: bytes) -> None:
        self.wrong[kind] += 1
        if self.wrong[kind] <= _SHOWN:
            self.examples.append(f"{kind}: {text[:400]!r}")


def fuzz(seed: str, count: int) -> Findings:
    """Try ``count`` envelopes of this seed."""
    mutator, findings = Mutator(seed), Findings()
    for _ in range(count):
        try_one(mutator.next(), findings)
    return findings


def try_one(raw: bytes, findings: Findings) -> None:
    """Put one text through both readers, and add what comes of it to ``findings``."""
    try:
        text = raw.decode()
    except (
        UnicodeDecodeError
    ):  # the gateway closes with 1007 before any reader; backends' bodies come as bytes
        if _parsed(raw, raw, findings) is not None:
            findings.add("accepted though not UTF-8", raw)
        findings.refused += 1
        return
    envelope = _parsed(text, raw, findings)
    _check_alone(raw, envelope, findings)
    other = _decoded_and_read(raw, findings)
    if envelope is None and other is not None and _depth(raw) > _DEEP:
        findings.deep += 1
    elif (envelope is None) != (other is None):
        findings.add("accepted by the gateway only" if other is None else "accepted by the service only", raw)
    if envelope is None:
        findings.refused += 1
        return
    findings.accepted += 1
    if other is not None and _essence(other) != _essence(envelope):
        findings.add("read differently", raw)
    _pass_on(envelope, raw, findings)


def _parsed(text: str | bytes, raw: bytes, findings: Findings) -> Envelope | None:
    try:
        return parse(text)
    except BadEnvelope:
        return None
    except Exception as error:  # the finding itself
        findings.add(f"parse raised {type(error).__name__}", raw)
        return None


def _check_alone(raw: bytes, parsed: Envelope | None, findings: Findings) -> None:
    """The gateway's check of what it only passes on agrees with its reader."""
    try:
        correlation_id = check(raw)
    except BadEnvelope:
        if parsed is not None:
            findings.add("accepted by the reader, not by the check", raw)
        return
    except Exception as error:  # the finding itself
        findings.add(f"check raised {type(error).__name__}", raw)
        return
    if parsed is None:
        if _depth(raw) <= _DEEP:
            findings.add("accepted by the check, not by the reader", raw)
    elif correlation_id != parsed.correlation_id:
        findings.add("checked differently", raw)


def _decoded_and_read(raw: bytes, findings: Findings) -> Envelope | None:
    if not _is_one_value(raw):
        return None
    try:
        command = read_command(wrap_command(_SESSION, raw))
        return read(command.envelope)
    except BadEnvelope:
        return None
    except Exception as error:  # the finding itself
        findings.add(f"read raised {type(error).__name__}", raw)
        return None


def _is_one_value(raw: bytes) -> bool:
    """Whether it is one JSON text, as all that the gateway passes on.

    One that goes on behind its object would add fields to the command that it is wrapped in.
    """
    with contextlib.suppress(RecursionError):
        try:
            msgspec.json.decode(raw, type=msgspec.Raw)
        except msgspec.DecodeError:
            return False
    return True


def _pass_on(envelope: Envelope, raw: bytes, findings: Findings) -> None:
    """As the gateway does: the text as it came, with a trace, beside another command in one batch."""
    if envelope.traceparent is None:
        item = wrap_command(_SESSION, raw.rstrip()[:-1] + f',"traceparent":"{_TRACEPARENT}"}}'.encode())
    else:
        item = wrap_command(_SESSION, raw, _TRACEPARENT)
    try:
        _, taken = split_batch(join_batch([wrap_command(_SESSION, b"{}"), item]))
        command = read_command(taken)
        found = read(command.envelope)
    except Exception as error:  # the finding itself
        findings.add(f"passed on and not readable ({type(error).__name__})", raw)
        return
    if command.trace != _TRACEPARENT:
        findings.add("the client's trace is obeyed", raw)
    if _essence(found) != _essence(envelope):
        findings.add("changed on the way", raw)


def _depth(text: bytes) -> int:
    """How deep JSON that a reader accepted is nested: brackets outside strings, whatever numbers stand between."""
    depth = deepest = 0
    for bracket in _STRINGS.sub(b"", text):
        if bracket in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in b"]}":
            depth -= 1
    return deepest


def _essence(envelope: Envelope) -> tuple[object, ...]:
    return envelope.msg_id, envelope.action, envelope.key, envelope.version, envelope.ack, envelope.timestamp


def _main(plan: dict[str, Any]) -> None:
    print("ready", flush=True)  # noqa: T201  # the parent reads it
    sys.stdin.readline()
    findings = fuzz(plan["seed"], plan["count"])
    told = {
        "accepted": findings.accepted, "deep": findings.deep, "refused": findings.refused, "wrong": findings.wrong,
        "examples": findings.examples,
    }  # fmt: skip
    print(json.dumps(told), flush=True)  # noqa: T201  # the parent reads it


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _main(msgspec.json.decode(sys.argv[1]))

"""``towpath tap``: the envelopes to a user, to a group or of a domain, as they pass.

Guarantees:

* Nothing is taken from a program: a tap has a queue of its own, exclusive, bounded (drop-head) and gone with it.
* Values are left out: of ``data`` only the names of fields and the kinds of values are shown, unless ``show_data``.
* At most ``rate`` envelopes a second are printed; the others are counted.
* A domain is tapped only while all queues of its service exist, which is checked every second: RabbitMQ returns a
  message that no queue takes, and with the queue of a tap there it would not.
"""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from towpath.protocol.errors import BadEnvelope, ErrorCode
from towpath.protocol.messages import split_batch
from towpath.protocol.names import shown
from towpath.protocol.routes import COMMANDS, EVENTS, PARTITIONS, PUSH, check_user_id, group_key, user_key
from towpath.servicekit.broker.interface import Binding, Broker, Delivery, Inbox, Topology
from towpath.servicekit.installed import installed_services
from towpath.servicekit.service import topology
from towpath.tools.operating import Reached, operate
from towpath.tools.ops import screen
from towpath.tools.trouble import Interrupted, Trouble
from towpath.tools.visible import as_json

_INBOX_MESSAGES: Final = 1_000
_INBOX_BYTES: Final = 16 * 1024 * 1024
_INBOX_MS: Final = 10_000
_CHECK_SECONDS: Final = 1.0
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
#: Fields of an envelope that are shown as they are, behind its action.
_SHOWN: Final = ("msg_id", "correlation_id", "stream", "seq", "key", "ack", "timestamp", "version")
_DEPTH: Final = 6
_LETTERS: Final = 200
#: Members of one object or array that are shown; what is not is counted.
MEMBERS_SHOWN: Final = 40
_CODES: Final = [str(code) for code in ErrorCode]
_KINDS: Final = {COMMANDS: "command", EVENTS: "event", PUSH: "push"}


class BadTarget(Trouble):
    """It cannot be tapped."""

    status = 2


class NotTapped(Trouble):
    """A tap would hide that messages reach no service."""


@dataclass(frozen=True, slots=True)
class Target:
    """The envelopes to tap.

    Attributes:
        bindings: Of the tap's queue.
        needed: Queues that must exist meanwhile.
    """

    text: str
    bindings: tuple[Binding, ...]
    needed: Topology

    @classmethod
    def of(cls, text: str) -> "Target":
        """``user:ana``, ``group:chat:harbour`` or ``domain:order``.

        Raises:
            BadTarget
        """
        kind, colon, word = text.partition(":")
        try:
            if kind == "user" and colon:
                return cls(text, (Binding(PUSH, user_key(check_user_id(word))),), Topology())
            if kind == "group" and colon:
                return cls(text, (Binding(PUSH, group_key(word)),), Topology())
        except ValueError as error:
            raise BadTarget(f"{text[:100]!a} cannot be tapped: {error}") from None
        if kind == "domain" and colon:
            return cls(text, *_of_domain(text, word))
        raise BadTarget(
            f"{text[:100]!a} cannot be tapped: write user:ana, group:chat:harbour or domain:order"
        )


def tap(
    text: str, *, show_data: bool, rate: float, seconds: float | None, as_lines: bool, data: Path
) -> None:
    """Print envelopes until Ctrl-C, the time limit, or until the reader of standard output is gone.

    Raises:
        BadTarget, NotTapped
    """
    target = Target.of(text)

    async def listen(reached: Reached) -> None:
        await _check(reached.broker, target)
        inbox = Inbox(
            name="ops.tap",
            bindings=target.bindings,
            max_length=_INBOX_MESSAGES,
            max_bytes=_INBOX_BYTES,
            message_ttl_ms=_INBOX_MS,
        )
        printing = _Printing(rate, show_data=show_data, as_lines=as_lines)
        async with reached.broker.subscribe(inbox, prefetch=100) as deliveries:
            _say(f"tapping {shown(text)}; Ctrl-C ends it")
            tasks = [
                asyncio.create_task(_keep_checking(reached.broker, target, printing)),
                asyncio.create_task(_read(deliveries, printing)),
            ]
            try:
                done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                printing.report()

    with contextlib.suppress(Interrupted, BrokenPipeError):
        operate(listen, data, "tap")


def envelopes(delivery: Delivery, *, show_data: bool) -> Iterator[dict[str, Any]]:
    """The envelopes of one message, each with where it was seen."""
    seen = {
        "at": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "kind": _KINDS.get(delivery.exchange, delivery.exchange),
        "routing_key": delivery.routing_key,
    }
    try:
        items = split_batch(delivery.body)
    except BadEnvelope as error:
        yield {**seen, "unreadable": error.message[:_LETTERS], "bytes": len(delivery.body)}
        return
    for item in items:
        try:
            read = json.loads(item)
        except (ValueError, RecursionError):
            yield {**seen, "unreadable": "not JSON", "bytes": len(item)}
            continue
        yield {**seen, **_described(read, show_data=show_data)}


def shape(value: Any, depth: int = 0) -> Any:
    """``value`` with the kinds of its values instead of the values; names of fields stay."""
    if isinstance(value, Mapping):
        if depth >= _DEPTH:
            return "object"
        fields = list(value.items())
        shapes = {
            (name if _FIELD.fullmatch(str(name)) else f"(name of {len(str(name))} letters)"): shape(
                one, depth + 1
            )
            for name, one in fields[:MEMBERS_SHOWN]
        }
        return shapes | ({"…": f"{len(fields) - MEMBERS_SHOWN} more"} if len(fields) > MEMBERS_SHOWN else {})
    if isinstance(value, list):
        if depth >= _DEPTH:
            return "array"
        more = [f"{len(value) - MEMBERS_SHOWN} more"] if len(value) > MEMBERS_SHOWN else []
        return [shape(one, depth + 1) for one in value[:MEMBERS_SHOWN]] + more
    if isinstance(value, str):
        return f"text of {len(value)}"
    return {bool: "boolean", type(None): "null"}.get(type(value), "number")


def _described(read: Any, *, show_data: bool) -> dict[str, Any]:
    if not isinstance(read, dict):
        return {"unreadable": "not an object"}
    described: dict[str, Any] = {}
    envelope = read
    # A command is an envelope with the session that its gateway put beside it.
    if isinstance(read.get("session"), dict) and isinstance(read.get("envelope"), dict):
        envelope = read["envelope"]
        session = read["session"]
        described = {
            name: _short(session[name])
            for name in ("user_id", "connection_id", "gateway_id")
            if name in session
        }
    described["action"] = _short(envelope.get("action"))
    described |= {name: _short(envelope[name]) for name in _SHOWN if name in envelope}
    if trace := read.get("traceparent") or envelope.get("traceparent"):
        described["trace_id"] = str(trace)[3:35]
    payload = envelope.get("data")
    if envelope.get("action") == "error" and isinstance(payload, dict) and payload.get("code") in _CODES:
        described["code"] = payload["code"]
    described["data"] = payload if show_data else shape(payload)
    return described


def _short(value: Any) -> Any:
    """A value of the envelope itself; one of another type than the contract has is shown by its kind."""
    if isinstance(value, str):
        return value[:_LETTERS]
    return value if isinstance(value, int) and abs(value) < 2**63 else shape(value)


class _Printing:
    """Prints envelopes, ``rate`` a second at most."""

    def __init__(self, rate: float, *, show_data: bool, as_lines: bool) -> None:
        self._rate = rate
        self._show_data = show_data
        self._as_lines = as_lines
        self._most = max(1.0, rate)
        self._allowance = self._most
        self._refilled = asyncio.get_running_loop().time()
        self._left_out = 0

    def take(self, delivery: Delivery) -> None:
        """Print what a message has."""
        now = asyncio.get_running_loop().time()
        self._allowance = min(self._most, self._allowance + (now - self._refilled) * self._rate)
        self._refilled = now
        for one in envelopes(delivery, show_data=self._show_data):
            if self._allowance < 1:
                self._left_out += 1
                continue
            self._allowance -= 1
            screen.line(as_json(one) if self._as_lines else _text(one))

    def report(self) -> None:
        """Say how many were left out since the last report."""
        if self._left_out:
            _say(f"{self._left_out} more were not shown (--rate {self._rate:g})")
            self._left_out = 0


def _text(one: Mapping[str, Any]) -> str:
    at = datetime.fromisoformat(one["at"])
    rest = {
        name: value
        for name, value in one.items()
        if name not in ("at", "kind", "routing_key", "action", "data", "timestamp", "version")
    }
    details = " ".join(f"{name}={as_json(value)}" for name, value in rest.items())
    head = f"{at:%H:%M:%S}.{at.microsecond // 1000:03} {one['kind']:<7} {shown(one['routing_key'])}"
    return f"{head} {shown(str(one.get('action', '')))} {details} {as_json(one.get('data'))}"


async def _read(deliveries: Any, printing: _Printing) -> None:
    async for delivery in deliveries:
        printing.take(delivery)
        delivery.ack()


async def _keep_checking(broker: Broker, target: Target, printing: _Printing) -> None:
    while True:
        await asyncio.sleep(_CHECK_SECONDS)
        printing.report()
        await _check(broker, target)


async def _check(broker: Broker, target: Target) -> None:
    missing = (await broker.look(target.needed)).missing(target.needed).queues
    if missing:
        raise NotTapped(
            f"{shown(target.text)} is not tapped: {missing[0].name} does not exist, and a tap would hide from "
            "publishers that no service gets their messages; start the service"
        )


def _of_domain(text: str, domain: str) -> tuple[tuple[Binding, ...], Topology]:
    for one in installed_services():
        service = one.definition()
        if service.domain == domain:
            commands = (Binding(COMMANDS, f"{domain}.{number}") for number in range(PARTITIONS))
            return (*commands, Binding(EVENTS, f"{domain}.#")), topology(service, 1)
    raise BadTarget(f"{text[:100]!a} cannot be tapped: no service that is installed here owns that domain")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"towpath: {text}\n")
        sys.stderr.flush()

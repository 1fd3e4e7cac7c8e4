"""Compatibility: the breaking changes between the contract of a release and that of now, each named. Pure.

A change breaks when a client, service or backend that was written for the release no longer works: an operation or a
message is removed or moved, a code is removed or means another thing, or the schema of a message changed so that one
side does not accept what the other one writes (:mod:`~towpath.tools.contract.schema_changes`). A break that is
intended is listed with its reason; a listed one that does not occur is a problem, too, so that the list is true.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from towpath.tools.contract.asyncapi import WEBSOCKET
from towpath.tools.contract.schema_changes import changes

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Intended:
    """A break that is intended.

    Attributes:
        change: The text of the break, as the check prints it.
    """

    change: str
    reason: str


def breaks(old: Document, new: Document) -> list[str]:
    """The breaking changes from ``old`` to ``new``, AsyncAPI documents of this package."""
    found = [*_codes(old, new), *_envelope(old, new)]
    for key, operation in old["operations"].items():
        found += _operation(key, operation, old, new)
    return list(dict.fromkeys(found))


def intended(path: Path) -> list[Intended]:
    """The list of intended breaks; empty if there is no file.

    Raises:
        ValueError: It has an entry that is not understood, or that has no reason.
    """
    if not path.exists():
        return []
    listed = tomllib.loads(path.read_text())
    entries = listed.pop("break", [])
    if listed or not all(
        set(entry) == {"change", "reason"}
        and all(isinstance(text, str) and text.strip() for text in entry.values())
        for entry in entries
    ):
        raise ValueError(f"{path.name}: give `[[break]]` entries with the texts change and reason only")
    return [Intended(**entry) for entry in entries]


def problems(found: Sequence[str], listed: Sequence[Intended], released: str, version: str) -> list[str]:
    """The breaks that are not intended, and what is wrong with the list.

    Args:
        released, version: Of the release, and of now.
    """
    allowed = {one.change for one in listed}
    lines = [f"breaks {released}: {change}" for change in found if change not in allowed]
    lines += [
        f"listed as intended, and not a break: {one.change}" for one in listed if one.change not in found
    ]
    if allowed & {*found} and not may_break(released, version):
        lines.append(
            f"{version} may not break {released}: raise the {_raised(released)} number of the version"
        )
    return lines


def may_break(released: str, version: str) -> bool:
    """Whether ``version`` may break ``released``: by semantic versioning, item 4 of which is about 0.x."""
    place = 2 if released.startswith("0.") else 1
    return ordered(version)[:place] > ordered(released)[:place]


def ordered(version: str) -> tuple[int, ...]:
    """A version by which versions sort."""
    return tuple(map(int, version.split(".")))


def _raised(released: str) -> str:
    return "second" if released.startswith("0.") else "first"


# Operations and messages


def _operation(key: str, old: Document, old_document: Document, new_document: Document) -> Iterator[str]:
    new = new_document["operations"].get(key)
    name = _name(key)
    if new is None:
        yield f"{name} is removed"
        return
    received = old["action"] == "receive"
    if new["action"] != old["action"]:
        yield f"{name} is {'sent' if received else 'received'} now, and was {'received' if received else 'sent'}"
        return
    here, there = (_place(one, document) for one, document in ((old, old_document), (new, new_document)))
    if here != there:
        yield f"{name} is at {there} now, and was at {here}"
    yield from _messages(old["messages"], new["messages"], old_document, new_document, received=received)
    # An answer goes the other way.
    answers, now = old.get("reply", {}).get("messages", []), new.get("reply", {}).get("messages", [])
    yield from _messages(answers, now, old_document, new_document, received=not received)


def _messages(
    old: Sequence[Document],
    new: Sequence[Document],
    old_document: Document,
    new_document: Document,
    *,
    received: bool,
) -> Iterator[str]:
    now = {_key(one) for one in new}
    for reference in old:
        key = _key(reference)
        if key not in now:
            yield f"{_name(key)} is removed"
            continue
        was, is_now = (
            _data(document["components"]["messages"][key]) for document in (old_document, new_document)
        )
        for change in changes(was, is_now, old_document, new_document, received=received):
            yield f"{_name(key)}: {change}"


def _data(message: Document) -> Document:
    """The schema of a message's ``data``, or of its whole body where it has no envelope around it."""
    payload: Document = message["payload"]
    if "allOf" in payload:
        data: Document = payload["allOf"][1]["properties"]["data"]
        return data
    return payload


def _place(operation: Document, document: Document) -> str:
    channel = document["channels"][operation["channel"]["$ref"].rpartition("/")[2]]
    exchange = channel.get("bindings", {}).get("amqp", {}).get("exchange", {}).get("name", "")
    return f"{exchange} {channel['address']}".strip()


def _key(reference: Document) -> str:
    key: str = reference["$ref"].rpartition("/")[2]
    return key


def _name(key: str) -> str:
    """``request.chat.send`` as ``request chat.send``."""
    kind, dot, action = key.partition(".")
    return f"{kind} {action}" if dot else kind


# Shared by all messages


def _envelope(old: Document, new: Document) -> Iterator[str]:
    was, is_now = (document["components"]["schemas"]["Envelope"] for document in (old, new))
    for received in (True, False):
        for change in changes(was, is_now, old, new, received=received):
            yield f"envelope: {change}"


def _codes(old: Document, new: Document) -> Iterator[str]:
    for kind, meaning in (("close", "reconnect"), ("error", "retryable")):
        word = f"x-{kind}-codes"
        now = {one["code"]: one[meaning] for one in new["channels"][WEBSOCKET][word]}
        for one in old["channels"][WEBSOCKET][word]:
            code = one["code"]
            if code not in now:
                yield f"{kind} code {code} is removed"
            elif now[code] != one[meaning]:
                yield f"{kind} code {code}: {meaning} is {str(now[code]).lower()} now"

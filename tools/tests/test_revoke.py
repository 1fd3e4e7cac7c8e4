"""``towpath revoke``: what it publishes, its limits, and what it writes again."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from towpath.gateway.forwarding.revoking import LOG
from towpath.protocol.revocations import Kind, Revocation, write
from towpath.testkit.tokens import a_token
from towpath.tools import revoke
from towpath.tools.revoke import Asked, BadRevocation, Known
from towpath.tools.times import BadTime
from towpath.tools.token import BadUser

NOW = 1_700_000_000.0
DAY = 86_400


@pytest.mark.parametrize(
    ("asked", "kind", "fields"),
    [
        (Asked(user="ana"), Kind.USER, {"user_id": "ana", "before": NOW, "until": NOW + 30 * DAY}),
        (Asked(token_id="t"), Kind.TOKEN, {"token_id": "t", "until": NOW + 30 * DAY}),
        (Asked(token_id="t", lasts="2h"), Kind.TOKEN, {"token_id": "t", "until": NOW + 7200}),
        (Asked(issued_before="now"), Kind.ISSUED_BEFORE, {"before": NOW, "until": NOW + 30 * DAY}),
        (Asked(issued_before="2023-11-14T00:00"), Kind.ISSUED_BEFORE, {"before": 1_699_920_000.0}),
    ],
)
def test_an_option_is_one_revocation(asked: Asked, kind: Kind, fields: Mapping[str, Any]) -> None:
    found, item = asked.revocation(NOW)
    assert found is kind
    assert {name: getattr(item, name) for name in fields} == fields


def test_a_token_in_a_file_is_revoked_by_its_id_until_it_expires(tmp_path: Path) -> None:
    file = tmp_path / "token"
    now = time.time()
    file.write_text(a_token("ana", jti="t-1", expires_in=7_000) + "\n")
    kind, item = Asked(token=file).revocation(now)
    assert (kind, item.token_id) == (Kind.TOKEN, "t-1")
    assert item.until == pytest.approx(now + 7_000, abs=30)


@pytest.mark.parametrize("text", ["", "rubbish", "a.b.c", "\udcff", a_token("ana"), a_token("ana", jti=7)])
def test_a_file_without_a_token_with_an_id_is_refused_and_not_quoted(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadRevocation) as refused:
        Asked(token=file).revocation(NOW)
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(user=""),
        Asked(user="a" * 129),
        Asked(token_id=""),
        Asked(token_id="t" * 257),
        Asked(token_id="t", lasts="401d"),
        Asked(token_id="t", lasts="forever"),
        Asked(token_id="t", reason="r" * 121),
        Asked(issued_before="soon"),
        Asked(issued_before="2099-01-01"),
    ],
)
def test_an_invalid_revocation_is_refused(asked: Asked) -> None:
    with pytest.raises((BadRevocation, BadTime, BadUser)):
        asked.revocation(NOW)


class Read:
    """A message of the log."""

    def __init__(self, kind: Kind, *items: Revocation, padding: int = 0) -> None:
        self.routing_key = kind.key
        self.body = write(items) + b" " * padding


async def known(*messages: Read) -> Known:
    found = Known(NOW)
    await found.take(messages)  # type: ignore[arg-type]
    return found


def token(name: str, until: float = NOW + DAY) -> Revocation:
    return Revocation(until, token_id=name)


async def test_only_active_revocations_count() -> None:
    found = await known(
        Read(Kind.TOKEN, token("a"), token("b", NOW), token("a")),
        Read(Kind.USER, Revocation(NOW + DAY, user_id="a", before=1.0)),
        Read(Kind.ISSUED_BEFORE, Revocation(NOW + 1, before=1.0)),
    )
    assert len(found) == 3


async def test_active_revocations_in_the_older_half_are_written_again() -> None:
    half = LOG.max_bytes // 2
    found = await known(
        Read(Kind.TOKEN, token("first"), token("again"), token("over", NOW)),
        Read(Kind.USER, Revocation(NOW + DAY, user_id="ana", before=5.0)),
        Read(Kind.TOKEN, token("again"), padding=half),
        Read(Kind.TOKEN, token("last")),
    )
    assert list(found.in_older_half()) == [
        (Kind.USER, [Revocation(NOW + DAY, user_id="ana", before=5.0)]),
        (Kind.TOKEN, [token("first")]),
    ]


async def test_revocations_are_written_again_in_messages_of_500() -> None:
    found = await known(
        Read(Kind.TOKEN, *(token(f"t-{number}") for number in range(1_200))),
        Read(Kind.TOKEN, token("x"), padding=LOG.max_bytes // 2),
    )
    assert [len(items) for _, items in found.in_older_half()] == [500, 500, 200]


async def test_a_revocation_with_its_later_end_in_an_older_message_is_written_again_with_both() -> None:
    found = await known(
        Read(Kind.USER, Revocation(NOW + 9 * DAY, user_id="ana", before=5.0)),
        Read(Kind.USER, Revocation(NOW + DAY, user_id="ana", before=7.0), padding=LOG.max_bytes // 2),
    )
    assert list(found.in_older_half()) == [
        (Kind.USER, [Revocation(NOW + 9 * DAY, user_id="ana", before=7.0)])
    ]


async def test_the_listing_shows_no_control_characters() -> None:
    line = revoke._line(Kind.TOKEN, Revocation(NOW, token_id="\x1b[2J", by="\u202eops", reason="\x07"))
    assert line.isprintable()
    assert json.dumps(revoke._as_dict(Kind.TOKEN, token("\x1b"))).isprintable()

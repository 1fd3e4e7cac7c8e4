"""Idempotency-Key: the same request has the same ids, wherever it is sent; another body is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingress.tests.running import Consumer, IngressUnderTest, RunIngress, a_consumer
from towpath.ingress.idempotency import Fingerprints, fingerprint, msg_id_of, read_key
from towpath.ingress.problems import Problem
from towpath.protocol.envelope import ID_LETTERS

PAID = {"action": "order.paid", "data": {"order_id": "O1"}}
SHIPPED = {"action": "order.shipped", "data": {"order_id": "O1"}}
UUID = "8e03978e-40d5-43dd-bc93-6894a57f9324"

visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255)


@given(visible, st.one_of(st.none(), st.integers(0, 9_999)))
def test_each_key_gives_an_id(key: str, position: int | None) -> None:
    assert re.fullmatch(ID_LETTERS, msg_id_of(key, position))


@given(st.sets(st.tuples(visible, st.one_of(st.none(), st.integers(0, 99))), min_size=2, max_size=20))
def test_different_keys_and_positions_give_different_ids(asked: set[tuple[str, int | None]]) -> None:
    assert len({msg_id_of(*one) for one in asked}) == len(asked)


@pytest.mark.parametrize(
    ("value", "key"),
    [(UUID, UUID), (f'"{UUID}"', UUID), (r'"a\"b\\c"', r"a\"b\c".replace('\\"', '"')), ("a:b/c", "a:b/c")],
)
def test_a_key_is_read_with_or_without_quotes(value: str, key: str) -> None:
    assert read_key([value]) == key


@pytest.mark.parametrize("value", ["", '""', '"', '"a', 'a"b', "a b", "a\tb", "ä", "a" * 256, '"\\x"'])
def test_another_key_is_refused(value: str) -> None:
    with pytest.raises(Problem, match="visible ASCII"):
        read_key([value])


@given(st.dictionaries(st.text(), st.integers() | st.text(), max_size=5), st.randoms())
def test_the_order_of_fields_does_not_change_a_fingerprint(
    content: dict[str, object], chance: object
) -> None:
    names = list(content)
    chance.shuffle(names)  # type: ignore[attr-defined]  # random.Random
    other = {name: content[name] for name in names}
    assert fingerprint("/v1/events", content) == fingerprint("/v1/events", other)
    assert fingerprint("/v1/events", content) != fingerprint("/v1/push", content)


def test_the_memory_of_fingerprints_is_bounded_and_forgets() -> None:
    known = Fingerprints(most=100, retention=60)
    for number in range(1_000):
        known.check("shop", f"k-{number}", b"body", now=0)
    assert len(known) <= 101
    with pytest.raises(Problem):
        known.check("shop", "k-999", b"other", now=59)
    known.check("depot", "k-999", b"other", now=59)
    known.check("shop", "k-999", b"other", now=61)


async def test_a_repeated_request_has_the_same_ids(ingress: IngressUnderTest, consumer: Consumer) -> None:
    for _ in range(2):
        assert (await ingress.events(PAID, idempotency_key=UUID)).status_code == 202
        assert (await ingress.events([PAID, SHIPPED], idempotency_key="k-2")).status_code == 202
    ids = [one["msg_id"] for one in await consumer.take(6)]
    assert ids[:3] == ids[3:]
    assert ids[0] == UUID
    assert len(set(ids)) == 3


async def test_an_id_of_the_item_counts_before_the_key(ingress: IngressUnderTest, consumer: Consumer) -> None:
    answer = await ingress.events([{**PAID, "msg_id": "m-1"}, SHIPPED], idempotency_key="k-1")
    ids = [one["msg_id"] for one in answer.json()["results"]]
    assert ids == ["m-1", msg_id_of("k-1", 1)]


async def test_a_restarted_ingress_gives_the_same_ids(run_ingress: RunIngress) -> None:
    ids = []
    for _ in range(2):
        async with run_ingress() as ingress, a_consumer(ingress.hub):
            answer = await ingress.events([PAID], idempotency_key=UUID)
            ids.append(answer.json()["results"][0]["msg_id"])
    assert ids[0] == ids[1]


async def test_another_body_under_a_key_is_refused_and_not_published(
    ingress: IngressUnderTest, consumer: Consumer
) -> None:
    assert (await ingress.events(PAID, idempotency_key="k-1")).status_code == 202
    answer = await ingress.events(SHIPPED, idempotency_key="k-1")
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:towpath:problem:idempotency-key-reused"
    assert [one["action"] for one in await consumer.take(1)] == ["order.paid"]
    assert await consumer.nothing()


async def test_keys_of_two_senders_are_different_keys(run_ingress: RunIngress) -> None:
    async with run_ingress() as ingress, a_consumer(ingress.hub) as consumer:
        other = ingress.make_key("depot", "order.*")
        from towpath.testkit.eventually import eventually

        async def is_taken() -> bool:
            return (await ingress.events(SHIPPED, key=other, idempotency_key="k-1")).status_code == 202

        await eventually(is_taken)
        assert (await ingress.events(PAID, idempotency_key="k-1")).status_code == 202
        assert [one["action"] for one in await consumer.take(2)] == ["order.shipped", "order.paid"]


async def test_a_request_that_was_refused_does_not_take_its_key(
    ingress: IngressUnderTest, consumer: Consumer
) -> None:
    assert (await ingress.events({"action": "order.paid"}, idempotency_key="k-1")).status_code == 422
    assert (await ingress.events(PAID, idempotency_key="k-1")).status_code == 202
    assert len(await consumer.take(1)) == 1

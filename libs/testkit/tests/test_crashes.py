"""Crashes of a service under test: at the commit, before the publish, before the ack."""

import pytest

from towpath.testkit import ServiceUnderTest, a_command

from .counting import COUNTS, SERVICE

ADD = a_command("count.add", msg_id="m-1", word="oak", amount=2)


async def numbers(service: ServiceUnderTest) -> dict[str, int]:
    return {row.word: row.number for row in await service.rows(COUNTS)}


async def test_a_crash_before_the_commit_leaves_the_message_to_another_replica() -> None:
    async with ServiceUnderTest.running(SERVICE) as service:
        await service.crash_before_commit(ADD)
        assert (await numbers(service), service.heard) == ({}, [])
        await service.redeliver()
        assert service.answer("m-1").data == {"word": "oak", "number": 2}
        assert await numbers(service) == {"oak": 2}


async def test_a_crash_before_the_publish_has_committed_and_published_nothing() -> None:
    async with ServiceUnderTest.running(SERVICE) as service:
        await service.crash_before_publish(ADD)
        assert (await numbers(service), service.heard) == ({"oak": 2}, [])
        await service.redeliver()
        assert service.answer("m-1").data == {"word": "oak", "number": 2}
        assert [event.action for event in service.events()] == ["count.added"]
        assert await numbers(service) == {"oak": 2}


async def test_a_crash_before_the_ack_publishes_the_same_again() -> None:
    async with ServiceUnderTest.running(SERVICE) as service:
        await service.crash_before_ack(ADD)
        assert service.answer("m-1").data == {"word": "oak", "number": 2}
        await service.redeliver()
        assert len({event.msg_id for event in service.events()}) == 1
        assert [answer.data["number"] for answer in service.answers("m-1")] == [2, 2]
        assert await numbers(service) == {"oak": 2}


async def test_messages_of_a_crash_are_handled_once_each_in_their_order() -> None:
    async with ServiceUnderTest.running(SERVICE) as service:
        commands = [a_command("count.add", msg_id=f"m-{n}", word="oak", amount=n) for n in (1, 2, 3)]
        await service.crash_before_commit(*commands)
        await service.crash_before_publish()
        await service.redeliver()
        assert [service.answer(f"m-{n}").data["number"] for n in (1, 2, 3)] == [1, 3, 6]


async def test_a_message_that_commits_nothing_cannot_crash_at_the_commit() -> None:
    async with ServiceUnderTest.running(SERVICE) as service:
        with pytest.raises(ValueError, match="count committed nothing for these messages"):
            await service.crash_before_commit(a_command("count.look", msg_id="m-1", word="oak"))
        await service.redeliver()
        assert {answer.data["code"] for answer in service.answers("m-1")} == {"conflict"}

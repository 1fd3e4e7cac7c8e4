"""The backlog: order per sequence, whatever runs beside the main path; nothing is lost or waits for ever."""

import asyncio
from collections import Counter
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from towpath.protocol.errors import Busy, NotFound
from towpath.servicekit.handling.backlog import Backlog
from towpath.servicekit.handling.fairness import FAIR_SHARE
from towpath.servicekit.handling.reads import ReadTurns
from towpath.servicekit.handling.requests import Request
from towpath.servicekit.handling.result import Failed
from towpath.servicekit.runtime.settings import ServiceSettings, TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.arrivals import SHELF
from towpath.testkit.arrivals import a_request as arrived

LIMIT: Final = 500
PATIENCE: Final = 5.0


PUT, LIST = "shelf.put", "shelf.list"


def a_request(user: str, action: str = PUT, key: str | None = None) -> Request:
    return arrived(SHELF, action, user, key=key)


def a_backlog() -> Backlog:
    return Backlog(Telemetry("test", TelemetrySettings()))


def put(backlog: Backlog, *requests: Request) -> None:
    for request in requests:
        backlog.add(request)


def failed(request: Request, *behind: Request) -> Failed:
    return Failed(request, ConnectionError("away"), list(behind))


# The main path


def test_a_request_that_arrives_during_a_flood_is_in_the_next_unit() -> None:
    backlog = a_backlog()
    put(backlog, *(a_request(f"eve-{number % 10}") for number in range(1000)), a_request("ben"))
    assert len(backlog.next_unit(LIMIT)) <= FAIR_SHARE + 10
    backlog.unit_done([])
    ana = a_request("ana")
    put(backlog, ana)
    assert ana in backlog.next_unit(LIMIT)


def test_the_bytes_of_ready_requests_are_counted() -> None:
    backlog = a_backlog()
    requests = [a_request("ana") for _ in range(3)]
    put(backlog, *requests)
    assert backlog.ready_bytes == sum(len(request.item) for request in requests)
    backlog.next_unit(1)
    assert backlog.ready_bytes == sum(len(request.item) for request in requests[1:])


# Failed commands


def test_a_failed_command_is_tried_again_and_its_sequence_waits_for_it_in_order() -> None:
    backlog = a_backlog()
    one, two, three, four, other = [a_request("ana") for _ in range(4)] + [a_request("ben")]
    put(backlog, one, two, three)
    assert backlog.next_unit(2) == [one, two]
    put(backlog, other)
    backlog.unit_done([failed(one, two)])
    put(backlog, four)
    assert backlog.next_unit(LIMIT) == [other]
    backlog.unit_done([])
    again = backlog.next_retry()
    assert again is not None
    assert again.request is one
    assert backlog.finish(one) == [two, three, four]
    assert backlog.next_unit(LIMIT) == [two, three, four]


def test_a_refusal_waits_behind_a_command_that_is_tried_again_but_not_behind_a_heavy_read() -> None:
    backlog = a_backlog()
    command = a_request("ana")
    put(backlog, command)
    backlog.next_unit(LIMIT)
    backlog.unit_done([failed(command)])
    behind_retry = arrived(SHELF, PUT, "ana", refusal=NotFound("no such cup"))
    behind_read = arrived(SHELF, PUT, "ben", refusal=Busy("later"))
    put(backlog, behind_retry, a_request("ben", LIST), behind_read)
    assert backlog.next_unit(LIMIT) == [behind_read]


# Heavy reads


def test_a_heavy_read_waits_for_all_earlier_requests_of_its_sender() -> None:
    backlog = a_backlog()
    put(backlog, *(a_request("eve", key=f"key-{n % 7}") for n in range(150)), a_request("ana"))
    read = a_request("eve", LIST)
    put(backlog, read, *(a_request("eve", key=f"key-{n % 7}") for n in range(150)))
    while any(request.sender == "user:eve" and request.number < read.number for request in backlog._ready):
        assert backlog.unblocked([read]) == []
        backlog.next_unit(LIMIT)
        assert backlog.unblocked([read]) == []  # The unit runs, and is not published.
        backlog.unit_done([])
    assert backlog.unblocked([read]) == [read]


def test_a_request_after_a_heavy_read_of_its_sender_waits_behind_it() -> None:
    backlog = a_backlog()
    first, change, second, last = [a_request("ana", action) for action in (LIST, PUT, LIST, PUT)]
    put(backlog, first, change, second, last)
    assert backlog.next_unit(LIMIT) == []
    assert backlog.unblocked([second]) == []
    assert backlog.finish(first) == [change]
    assert backlog.unblocked([second]) == []
    assert backlog.next_unit(LIMIT) == [change]
    backlog.unit_done([])
    assert backlog.unblocked([second]) == [second]
    assert backlog.finish(second) == [last]


# Wake-ups


async def test_the_main_path_wakes_when_a_line_moves_on_and_not_before() -> None:
    backlog = a_backlog()
    read, change = a_request("ana", LIST), a_request("ana")
    waiting = asyncio.ensure_future(backlog.until_ready())
    put(backlog, read, change, a_request("ben"))
    await asyncio.sleep(0)
    assert not waiting.done()  # A delivery wakes the main path by itself.
    backlog.finish(read)
    async with asyncio.timeout(PATIENCE):
        await waiting


async def test_all_who_wait_for_a_change_see_it() -> None:
    backlog = a_backlog()
    waiting = [asyncio.ensure_future(backlog.changed()) for _ in range(3)]
    await asyncio.sleep(0)
    put(backlog, a_request("ana", LIST))
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*waiting)


async def test_waiting_for_the_lines_ends_when_requests_are_ready_or_no_line_is_left() -> None:
    backlog = a_backlog()
    async with asyncio.timeout(PATIENCE):
        assert await backlog.ready_or_empty(0)
        read, change = a_request("ana", LIST), a_request("ana")
        put(backlog, read, change)
        assert not await backlog.ready_or_empty(0.01)
        waiting = asyncio.ensure_future(backlog.ready_or_empty(PATIENCE))
        await asyncio.sleep(0)
        backlog.finish(read)
        assert await waiting
        assert backlog.next_unit(LIMIT) == [change]


# All orders of events


#: Few, so that requests meet in one sequence.
users, keys = st.sampled_from(["ana", "eve"]), st.sampled_from([None, "x"])
actions = st.sampled_from([PUT, PUT, "shelf.look", LIST, "shelf.history", "refused"])


class Handling(RuleBasedStateMachine):
    """A dispatcher without its work: requests arrive, units, retries and rounds of reads begin, end and fail."""

    @initialize(user_max=st.integers(1, 4))
    def begin(self, user_max: int) -> None:
        telemetry = Telemetry("test", TelemetrySettings())
        self.backlog = Backlog(telemetry)
        self.reads = ReadTurns(self.backlog, ServiceSettings(heavy_reads_user_max=user_max), telemetry)
        self.arrived: list[Request] = []
        self.done: list[Request] = []
        self.unit: list[Request] | None = None
        self.retries: list[Request] = []
        self.rounds: list[list[Request]] = []
        self.ever_failed: set[Request] = set()

    # Steps

    @rule(user=users, key=keys, action=actions)
    def arrives(self, user: str, key: str | None, action: str) -> None:
        if action == "refused":
            request = arrived(SHELF, PUT, user, key=key, refusal=NotFound("no such cup"))
        else:
            request = a_request(user, action, key)
        request = self.reads.admitted(request)
        self.arrived.append(request)
        self.backlog.add(request)

    @precondition(lambda self: self.unit is None and self.backlog.ready_bytes)
    @rule(limit=st.sampled_from([1, 3, LIMIT]))
    def unit_begins(self, limit: int) -> None:
        self.unit = self.backlog.next_unit(limit)
        assert self.unit
        for position, request in enumerate(self.unit):
            self.starts(request, together=self.unit[:position])

    @precondition(lambda self: self.unit is not None)
    @rule(data=st.data())
    def unit_ends(self, data: st.DataObject) -> None:
        assert self.unit is not None
        failures: dict[tuple[str, str], Failed] = {}
        for request in self.unit:
            if (leader := failures.get(request.sequence_key)) is not None:
                leader.behind.append(request)
            elif request.refusal is None and request.handler.changes and data.draw(st.booleans()):
                failures[request.sequence_key] = failed(request)
                self.ever_failed.add(request)
            else:
                self.done.append(request)
        self.unit = None
        self.backlog.unit_done(list(failures.values()))

    @rule()
    def retry_begins(self) -> None:
        if (retry := self.backlog.next_retry()) is not None:
            self.retries.append(retry.request)
            self.starts(retry.request)

    @precondition(lambda self: self.retries)
    @rule(data=st.data())
    def retry_ends(self, data: st.DataObject) -> None:
        request = self.retries.pop(data.draw(st.integers(0, len(self.retries) - 1)))
        self.done.append(request)
        self.reads.release(self.backlog.finish(request))

    @rule()
    def round_begins(self) -> None:
        if (started := self.reads.next_round()) is None:
            return
        running = {read.sender for other in self.rounds for read in other}
        assert len({read.envelope.action for read in started}) == 1
        assert not running & {read.sender for read in started}, "two reads of one user at a time"
        self.rounds.append(started)
        for read in started:
            self.starts(read)
            self.sees_earlier_changes(read)

    @precondition(lambda self: self.rounds)
    @rule(data=st.data())
    def round_ends(self, data: st.DataObject) -> None:
        ended = self.rounds.pop(data.draw(st.integers(0, len(self.rounds) - 1)))
        self.reads.finished(ended)
        for read in ended:
            self.done.append(read)
            self.reads.release(self.backlog.finish(read))

    # Invariants

    def starts(self, request: Request, together: list[Request] | None = None) -> None:
        """Everything before it in its sequence is done, or is before it in its unit; refusals have no effect."""
        finished = {*self.done, *(together or [])}
        for earlier in self.arrived:
            if earlier is request:
                return
            if earlier.sequence_key == request.sequence_key and None is earlier.refusal is request.refusal:
                assert earlier in finished

    def sees_earlier_changes(self, read: Request) -> None:
        """Of its sender, only what waits behind another heavy read or a failed command comes after it."""
        for earlier in self.arrived:
            if earlier is read:
                return
            if earlier.sender == read.sender and earlier not in self.done and earlier.refusal is None:
                leaders = [
                    other
                    for other in self.arrived[: self.arrived.index(earlier) + 1]
                    if other.sequence_key == earlier.sequence_key and other not in self.done
                ]
                assert any(other.is_heavy_read or other in self.ever_failed for other in leaders)

    @invariant()
    def nothing_runs_twice(self) -> None:
        assert all(times == 1 for times in Counter(map(id, getattr(self, "done", []))).values())

    def teardown(self) -> None:
        """Everything comes to its end, once no more fails."""
        for _ in range(20 * len(self.arrived) + 20):
            if self.unit is not None:
                self.done += self.unit
                self.unit = None
                self.backlog.unit_done([])
            if self.backlog.ready_bytes:
                self.unit_begins(LIMIT)
            self.retry_begins()
            while self.retries:
                request = self.retries.pop()
                self.done.append(request)
                self.reads.release(self.backlog.finish(request))
            self.round_begins()
            while self.rounds:
                ended = self.rounds.pop()
                self.reads.finished(ended)
                for read in ended:
                    self.done.append(read)
                    self.reads.release(self.backlog.finish(read))
        assert sorted(map(id, self.done)) == sorted(map(id, self.arrived))
        assert self.backlog.ready_bytes == 0
        assert not self.backlog._lines
        assert not self.backlog._retrying
        assert not self.reads._admitted
        assert not self.reads._by_user
        assert not self.reads._held_by_queue


Handling.TestCase.settings = settings(stateful_step_count=60)
TestHandling = Handling.TestCase

"""Heavy reads: users are served round robin, and what waits is bounded. How they run: ``test_beside.py``."""

import pytest

from towpath.protocol.errors import Busy
from towpath.servicekit.handling.backlog import Backlog
from towpath.servicekit.handling.reads import ReadTurns
from towpath.servicekit.handling.requests import Request
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.arrivals import SHELF, Arrival, a_request


class Shelves:
    """The heavy reads of one service, and its backlog."""

    def __init__(self, telemetry: Telemetry, **limits: int) -> None:
        self.backlog = Backlog(telemetry)
        self.reads = ReadTurns(self.backlog, ServiceSettings().model_copy(update=limits), telemetry)

    def arrive(
        self, user: str, msg_id: str, action: str = "shelf.list", arrival: Arrival | None = None
    ) -> Request:
        request = self.reads.admitted(a_request(SHELF, action, user, msg_id=msg_id, arrival=arrival))
        self.backlog.add(request)
        return request

    def is_admitted(self, user: str, arrival: Arrival | None = None) -> bool:
        return self.arrive(user, "m", arrival=arrival).refusal is None

    def next_round(self) -> list[Request]:
        return self.reads.next_round() or []

    def finish(self, reads: list[Request]) -> None:
        self.reads.finished(reads)
        for read in reads:
            self.reads.release(self.backlog.finish(read))


@pytest.fixture
def shelves(telemetry: Telemetry) -> Shelves:
    return Shelves(telemetry)


def ids(requests: list[Request]) -> list[str]:
    return [request.envelope.msg_id for request in requests]


def test_users_are_served_round_robin_each_with_one_read_at_a_time(shelves: Shelves) -> None:
    for number in range(10):
        shelves.arrive("eve", f"e-{number}")
    shelves.arrive("ana", "a-1")
    shelves.arrive("bob", "b-1")
    rounds = []
    while started := shelves.next_round():
        rounds.append(ids(started))
        shelves.finish(started)
    assert rounds == [["e-0", "a-1", "b-1"], *([f"e-{number}"] for number in range(1, 10))]


def test_a_slow_read_of_one_user_delays_no_other_user(shelves: Shelves) -> None:
    shelves.arrive("eve", "e-1")
    shelves.arrive("eve", "e-2")
    slow = shelves.next_round()
    assert ids(slow) == ["e-1"]
    shelves.arrive("ana", "a-1")
    other = shelves.next_round()
    assert ids(other) == ["a-1"]
    shelves.finish(other)
    assert shelves.next_round() == []
    shelves.finish(slow)
    assert ids(shelves.next_round()) == ["e-2"]


@pytest.mark.parametrize(
    ("each_round", "each_read", "most_rounds", "largest"),
    [
        pytest.param(0.0, 0.005, 100, 3, id="dear reads"),
        pytest.param(0.0, 1.0, 200, 2, id="very dear reads"),
        pytest.param(0.002, 0.0002, 10, 60, id="cheap reads"),
        pytest.param(0.05, 0.0002, 10, 60, id="cheap reads while others have much to do"),
    ],
)
def test_the_size_of_rounds_follows_the_time_of_further_reads(
    shelves: Shelves, each_round: float, each_read: float, most_rounds: int, largest: int
) -> None:
    def run() -> int:
        reads = shelves.next_round()
        shelves.reads.learn(reads, seconds=each_round + len(reads) * each_read, size=0)
        shelves.finish(reads)
        return len(reads)

    shelves.arrive("ana", "a-1")
    assert run() == 1  # It says what a round costs, and little about many.
    for number in range(200):
        shelves.arrive(f"u-{number}", f"m-{number}")
    sizes: list[int] = []
    while sum(sizes) < 200:
        sizes.append(run())
    assert len(sizes) <= most_rounds
    assert max(sizes) <= largest
    assert all(size <= 2 * before for before, size in zip([1, *sizes], sizes, strict=False))


def test_a_slow_moment_of_the_program_does_not_make_rounds_large(shelves: Shelves) -> None:
    for number in range(640):
        shelves.arrive(f"u-{number}", f"m-{number}")
    shelves.reads.learn([shelves.arrive("ana", "a-1")], seconds=0.5, size=0)
    sizes: list[int] = []
    for _ in range(10):
        reads = shelves.next_round()
        shelves.reads.learn(reads, seconds=len(reads) * 0.005, size=0)
        shelves.finish(reads)
        sizes.append(len(reads))
    assert max(sizes) <= 4


def test_a_round_that_took_long_makes_the_next_ones_small(shelves: Shelves) -> None:
    for number in range(40):
        shelves.arrive(f"u-{number}", f"m-{number}")
    for seconds in (0.001, 2.0):
        reads = shelves.next_round()
        assert len(reads) > 4
        shelves.reads.learn(reads, seconds=seconds, size=0)
        shelves.finish(reads)
    assert [len(shelves.next_round()) for _ in range(8)] == [1] * 8


def test_the_size_of_rounds_follows_the_bytes_of_the_answers(telemetry: Telemetry) -> None:
    shelves = Shelves(telemetry, unit_max_bytes=4096)
    first = [shelves.arrive("ana", "a-1")]
    shelves.finish(shelves.next_round())
    for _ in range(40):  # The expectation before the first answer fades slowly.
        shelves.reads.learn(first, seconds=0.0, size=2048)
    for number in range(4):
        shelves.arrive(f"u-{number}", f"m-{number}")
    assert len(shelves.next_round()) == 2


def test_a_round_has_reads_of_one_action(shelves: Shelves) -> None:
    for user, action in (("ana", "shelf.list"), ("bob", "shelf.history"), ("eve", "shelf.list")):
        shelves.arrive(user, user, action)
    assert [ids(shelves.next_round()) for _ in range(2)] == [["ana", "eve"], ["bob"]]


def test_waiting_reads_are_bounded_for_one_user_and_for_all(telemetry: Telemetry) -> None:
    shelves = Shelves(telemetry, heavy_reads_user_max=3, heavy_reads_max=5)
    admitted = [shelves.is_admitted(user) for user in ("eve", "ana") for _ in range(4)]
    assert admitted == [True, True, True, False, True, True, False, False]
    assert b"heavy_reads_busy_total 3.0" in telemetry.exposition()


def test_a_read_past_a_bound_is_refused_as_busy_and_may_be_repeated_later(telemetry: Telemetry) -> None:
    shelves = Shelves(telemetry, heavy_reads_user_max=1)
    shelves.arrive("eve", "e-1")
    error = shelves.arrive("eve", "e-2").refusal
    assert isinstance(error, Busy)
    assert error.code.retryable
    shelves.finish(shelves.next_round())
    assert shelves.is_admitted("eve")


def test_requests_behind_reads_are_bounded(shelves: Shelves) -> None:
    delivery = Arrival()
    shelves.arrive("eve", "e-1")
    behind = [shelves.arrive("eve", f"p-{number}", "shelf.put", delivery) for number in range(129)]
    assert [request.refusal is None for request in behind] == [True] * 128 + [False]
    assert shelves.backlog.next_unit(500) == [behind[128]]  # The answer ``busy`` waits for nothing.
    shelves.backlog.unit_done([])
    shelves.finish(shelves.next_round())
    assert shelves.backlog.next_unit(500) == behind[:128]


def test_once_reads_hold_half_a_queue_each_user_may_have_one(telemetry: Telemetry) -> None:
    shelves = Shelves(telemetry, prefetch=8)
    for number in range(4):
        shelves.arrive("eve", f"e-{number}")
    assert not shelves.is_admitted("eve")
    assert shelves.is_admitted("ana")
    assert not shelves.is_admitted("ana")
    assert shelves.is_admitted("eve", Arrival("service.commands.1"))


def test_a_delivery_that_holds_reads_already_may_bring_more_of_them(telemetry: Telemetry) -> None:
    shelves, one_delivery = Shelves(telemetry, prefetch=2), Arrival()
    assert [shelves.is_admitted("eve", one_delivery) for _ in range(3)] == [True] * 3
    assert not shelves.is_admitted("eve")

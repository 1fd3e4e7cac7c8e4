"""The backlog: bytes that wait for clients that do not read stay within their bounds."""

from hypothesis import given
from hypothesis import strategies as st

from towpath.gateway.settings import GatewaySettings
from towpath.gateway.websocket.backlog import Backlog
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.tokens import SECRET

EACH = 64 * 1024
TOTAL = 1024 * 1024


class Stalled:
    """A client that never reads."""

    def __init__(self, backlog: Backlog) -> None:
        self.backlog = backlog
        self.closing = False
        self.connection_id = self.owner = "stalled"
        self.is_aborted = False
        self.size = 0

    def write(self, size: int) -> None:
        if not self.closing:
            self.size += size
            self.backlog.note(self, self.size)

    def backlog_size(self) -> int:
        return self.size

    def close_too_slow(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.is_aborted = True
        self.size = 0


def a_backlog() -> Backlog:
    settings = GatewaySettings(auth_secret=SECRET, send_buffer_bytes=EACH, send_buffer_total_bytes=TOTAL)
    return Backlog(settings, Telemetry("test", settings))


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 50_000)), max_size=300))
def test_stalled_clients_hold_no_more_than_the_total_and_one_message(writes: list[tuple[int, int]]) -> None:
    backlog = a_backlog()
    clients = [Stalled(backlog) for _ in range(100)]
    for number, size in writes:
        clients[number].write(size)
        # Those closed last may hold theirs until the next message that does not fit.
        assert sum(client.size for client in clients) <= TOTAL + 50_000


def test_past_the_total_only_the_largest_backlogs_are_closed() -> None:
    backlog = a_backlog()
    small = [Stalled(backlog) for _ in range(10)]
    large = [Stalled(backlog) for _ in range(17)]
    for client in small:
        client.write(100)
    for client in large:
        client.write(EACH - 1)
    assert not any(client.closing for client in small)
    assert 4 <= sum(client.closing for client in large) <= 6


def test_closed_connections_that_do_not_read_are_aborted_before_others_are_closed() -> None:
    backlog = a_backlog()
    first = [Stalled(backlog) for _ in range(17)]
    for client in first:
        client.write(EACH - 1)
    closed = [client for client in first if client.closing]
    another = Stalled(backlog)
    another.write(1)
    assert all(client.is_aborted for client in closed)
    assert [client for client in first if client.closing] == closed
    assert not another.closing

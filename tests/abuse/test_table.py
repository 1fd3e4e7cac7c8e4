"""The figures of the page are what they say."""

import json

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from .bounds import ONE_CONNECTION
from .table import Line, Run, Table, Waits
from .wire import CONT, PING, TEXT, envelope, frame

pytestmark = pytest.mark.abuse_short


def test_a_hundred_waits_have_their_second_longest_as_99th_percentile() -> None:
    waits = Waits.of([number / 1000 for number in range(1, 101)])
    assert (waits.count, waits.p99, waits.worst) == (100, 0.099, 0.1)
    assert str(waits) == "51 / 99 / 100"


def test_waits_without_samples_are_not_zero() -> None:
    assert str(Waits.of([])) == "–"


def test_the_page_lists_failed_promises() -> None:
    table = Table()
    table.add(Line("test_others_do_not_wait", "a flood", "5eed", ONE_CONNECTION, failures=["a user waited"]))
    table.add(Line("test_nothing_gets_through", "a close", "5eed", got_in="0 got through"))
    door = Line("test_no_token_lets_in", "a forged token", "5eed", is_door=True)
    door.refused(True, "one without a signature")
    table.add(door)
    page = table.page(Run("make abuse", "5eed", "2 cores", "2026-11-28"))
    assert "2 of 3 attacks stayed within their bounds" in page
    assert "- *a flood*: a user waited." in page
    assert "| a close | 0 got through | ✓ |" in page
    assert "| a forged token | 1 | 0 | ✓ |" in page


def test_a_hostile_input_that_was_not_refused_is_a_failure() -> None:
    door = Line("test_no_token_lets_in", "a forged token", "5eed", is_door=True)
    door.refused(False, "one without a signature")
    assert (door.tried, door.through, door.failures) == (1, 1, ["got through: one without a signature"])


@pytest.mark.parametrize(
    ("opcode", "size"),
    [
        *((opcode, size) for opcode in (TEXT, CONT) for size in (0, 1, 125, 126, 65_535, 65_536, 100_000)),
        *((PING, size) for size in (0, 1, 125)),  # a control frame has 125 bytes at most
    ],
)
def test_frames_are_those_of_rfc_6455(opcode: int, size: int) -> None:
    reader = StreamReader()
    reader.feed_data(frame(opcode, b"x" * size, fin=opcode != CONT))
    parsing = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    found: Frame = parsed.value.value
    assert (found.opcode, bytes(found.data), found.fin) == (Opcode(opcode), b"x" * size, opcode != CONT)


def test_a_built_envelope_is_valid_once_its_placeholder_is_replaced() -> None:
    made = json.loads(envelope("ping").replace(b"@@@@@@@@", b"00000001"))
    assert made == {"msg_id": "00000001", "timestamp": 1, "action": "ping", "data": {}, "version": "1.0"}

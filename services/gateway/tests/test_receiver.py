"""The receiver: frames become whole texts in order, and an invalid one is refused once."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from towpath.gateway.websocket.receiver import Receiver

UNSUPPORTED: Final = 1003
NOT_UTF8: Final = 1007
TOO_BIG: Final = 1009
INTERNAL: Final = 1011


class Recorder:
    """Records what a receiver passes on and refuses."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.refused: list[int] = []
        self.receiver = Receiver(
            lambda text: self.texts.append(text.decode()), lambda code, _: self.refused.append(code)
        )

    def take(self, *frames: Frame) -> None:
        for frame in frames:
            self.receiver.take(frame)


def frames_of(data: bytes, cuts: list[int]) -> list[Frame]:
    """``data`` as one text message that is cut at those places, each taken modulo its length."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    parts = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    opcodes = [Opcode.TEXT, *[Opcode.CONT] * (len(parts) - 1)]
    return [
        Frame(opcode, part, fin=place == len(parts) - 1)
        for place, (opcode, part) in enumerate(zip(opcodes, parts, strict=True))
    ]


@given(st.lists(st.tuples(st.text(max_size=50), st.lists(st.integers(0, 1000), max_size=8)), max_size=8))
def test_texts_are_whole_and_in_order_however_they_are_cut(sent: list[tuple[str, list[int]]]) -> None:
    recorder = Recorder()
    for text, cuts in sent:
        recorder.take(*frames_of(text.encode(), cuts))
    assert recorder.texts == [text for text, _ in sent]
    assert recorder.refused == []


def test_a_character_may_be_cut_in_two() -> None:
    recorder = Recorder()
    recorder.take(*frames_of("ü".encode(), [1]))
    assert recorder.texts == ["ü"]


def test_no_text_is_passed_on_after_a_binary_frame() -> None:
    recorder = Recorder()
    recorder.take(Frame(Opcode.BINARY, b"{}"), Frame(Opcode.TEXT, b"{}"), Frame(Opcode.BINARY, b"{}"))
    assert (recorder.texts, recorder.refused) == ([], [UNSUPPORTED])


def test_invalid_utf_8_is_refused_when_the_message_is_whole() -> None:
    recorder = Recorder()
    first, second = frames_of(b"fine\xff", [2])
    recorder.take(first)
    assert recorder.refused == []
    recorder.take(second, Frame(Opcode.TEXT, b"late"))
    assert (recorder.texts, recorder.refused) == ([], [NOT_UTF8])


def test_a_message_without_an_end_is_refused() -> None:
    recorder = Recorder()
    recorder.take(Frame(Opcode.TEXT, b"", fin=False))
    recorder.take(*[Frame(Opcode.CONT, b"", fin=False)] * 2000)
    assert (recorder.texts, recorder.refused) == ([], [TOO_BIG])


def test_an_error_of_the_gateway_ends_only_this_connection_with_1011() -> None:
    refused: list[int] = []

    def fails(text: bytes) -> None:
        raise ValueError(text)

    receiver = Receiver(fails, lambda code, _: refused.append(code))
    receiver.take(Frame(Opcode.TEXT, b"{}"))
    receiver.take(Frame(Opcode.TEXT, b"{}"))
    assert refused == [INTERNAL]

"""Frames: text becomes one unmasked frame with the shortest form of its length (RFC 6455, section 5.2)."""

import pytest

from towpath.gateway.websocket.frames import text_frame
from towpath.testkit.gateway_stubs import texts_of


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, "8100"),
        (125, "817d"),
        (126, "817e007e"),
        (65_535, "817effff"),
        (65_536, "817f0000000000010000"),
    ],
)
def test_a_text_frame_has_the_shortest_head_of_its_length(size: int, head: str) -> None:
    text = b"x" * size
    assert text_frame(text) == bytes.fromhex(head) + text


def test_frames_joined_together_are_read_as_their_texts() -> None:
    texts = [b"{}", b"y" * 126, b"", b"z" * 70_000]
    assert texts_of(b"".join(map(text_frame, texts))) == texts

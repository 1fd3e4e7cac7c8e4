"""Frames: the bytes of a text message on the wire (RFC 6455, section 5.2). A pure function.

Guarantee: the bytes are the same for every receiver, so that one frame is built for many. A server does not mask its
frames (section 5.1), and no extension is negotiated, compression above all (section 9): either would make the bytes
depend on the connection.
"""

from typing import Final

#: FIN and the opcode of a text frame: the first byte of a message that has one frame.
_TEXT: Final = b"\x81"


def text_frame(text: bytes) -> bytes:
    """One unmasked text frame, ready for any number of connections."""
    size = len(text)
    # The length has 7 bits, or 16 after the mark 126, or 64 after the mark 127.
    # RFC 6455, section 5.2: "the minimal number of bytes MUST be used to encode the length".
    if size < 126:
        return _TEXT + size.to_bytes(1, "big") + text
    if size < 1 << 16:
        return _TEXT + b"\x7e" + size.to_bytes(2, "big") + text
    return _TEXT + b"\x7f" + size.to_bytes(8, "big") + text

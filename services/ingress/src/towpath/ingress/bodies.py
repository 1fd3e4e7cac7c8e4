"""Bodies of requests: read within limits, and split into the JSON texts of their items.

Guarantees: nothing is read of a body that is too large, has no length or is not ``application/json``; a body is in
memory once, and only until its request is answered. An item is passed on as it came: no number in it is rounded.
"""

import asyncio
import re
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect, Request

from towpath.ingress.problems import Kind, Problem
from towpath.ingress.settings import IngressSettings
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import TooManyItems, split_batch

JSON: Final = "application/json"
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


class Gone(Exception):
    """The client has closed the connection: no answer can reach it."""


async def read_body(request: Request, settings: IngressSettings) -> bytes:
    """The whole body.

    Raises:
        Problem: It is refused: 411, 413, 415 or, when it does not arrive in time, 408.
        Gone
    """
    check_media_type(request.headers.getlist("content-type"))
    size = content_length(request.headers.get("content-length"), request.headers.get("transfer-encoding"))
    if size > settings.body_max_bytes:
        raise Problem(
            Kind.TOO_LARGE,
            f"The body has {size} bytes, and {settings.body_max_bytes} are taken: send fewer items at once.",
        )
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout):
            async for part in request.stream():
                body += part
    except TimeoutError:
        raise Problem(
            Kind.TOO_SLOW, f"{len(body)} of {size} bytes came within {settings.body_timeout:g} s."
        ) from None
    except ClientDisconnect:
        raise Gone from None
    return bytes(body)


def check_media_type(values: list[str]) -> None:
    """Check that the body is JSON in UTF-8.

    Raises:
        Problem: 415.
    """
    media_type, *parameters = (part.strip().lower() for part in (values[0] if values else "").split(";"))
    charsets = [part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset=")]
    if len(values) != 1 or media_type != JSON or any(charset != "utf-8" for charset in charsets):
        shown = ", ".join(values)[:100]
        raise Problem(
            Kind.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type is {shown!r}: send {JSON}, in UTF-8." if values else f"Send Content-Type: {JSON}.",
        )


def content_length(length: str | None, coding: str | None) -> int:
    """The length of the body.

    Raises:
        Problem: 411, there is none.
    """
    if length is None or coding is not None:
        raise Problem(Kind.LENGTH_REQUIRED, "Send the body at once, with its Content-Length.")
    return int(length)  # h11 refuses all but numbers of at most 20 digits.


def split(body: bytes, settings: IngressSettings) -> tuple[list[bytes], bool]:
    """The JSON texts of the items, and whether the body is an array.

    Raises:
        Problem: 400, it is not JSON; 413, it has too many items; 422, it is neither object nor array, or empty.
    """
    text = body.lstrip(b" \t\r\n")
    if not text:
        raise Problem(Kind.BAD_REQUEST, "The body is empty: send a JSON object, or an array of them.")
    try:
        text.decode()
        items = split_batch(text, max_items=settings.items_max)
    except UnicodeDecodeError as error:
        raise Problem(Kind.BAD_REQUEST, f"The body is not UTF-8: {error.reason}.") from None
    except TooManyItems:
        raise Problem(
            Kind.TOO_LARGE, f"The body has more than {settings.items_max} items: send fewer at once."
        ) from None
    except BadEnvelope as error:
        if text[:1] in b"{[":
            # The decoder's own text is about a missing end.
            detail = "A string has half of a surrogate pair." if _SURROGATE.search(text) else str(error)
            raise Problem(Kind.BAD_REQUEST, detail) from None
        kind = Kind.INVALID if _is_json(text) else Kind.BAD_REQUEST
        raise Problem(kind, "The body is neither a JSON object nor an array of objects.") from None
    if not items:
        raise Problem(Kind.INVALID, "The array has no items.")
    return items, text[:1] == b"["


def depth_exceeds(value: Any, limit: int) -> bool:
    """Whether objects and arrays stand inside each other more than ``limit`` times."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True

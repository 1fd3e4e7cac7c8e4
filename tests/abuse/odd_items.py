"""Odd directed items: what a careless service publishes to ``connection.<gateway>`` and ``control.<user>``.

Each is one body. None of them asks for anything that a gateway may do: the users it names go on as before.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

_ENVELOPE: Final = {"msg_id": "m", "timestamp": 1, "action": "odd.item", "data": {}, "version": "1.0"}


def _item(**fields: Any) -> bytes:
    """An item for the connection that is put in the place of ``CONNECTION``."""
    return json.dumps({"connection_id": "CONNECTION", **fields}).encode()


def _broken(envelope: bytes) -> bytes:
    return b'{"connection_id":"CONNECTION","envelope":' + envelope + b"}"


#: Kind of oddity → the body.
ITEMS: Final[Mapping[str, bytes]] = {
    "subscribe to an empty name": _item(subscribe=[""]),
    "subscribe to a name of 300 letters": _item(subscribe=["g" * 300]),
    "subscribe to a name of 300 letters, encoded": _item(subscribe=["é" * 100]),
    "subscribe to a lone surrogate": b'{"connection_id":"CONNECTION","subscribe":["\\ud800"]}',
    "subscribe to a zero": _item(subscribe=["a\0b"]),
    "subscribe to a number": _item(subscribe=[7]),
    "subscribe to null": _item(subscribe=[None]),
    "subscribe to a text": _item(subscribe="room"),
    "subscribe to an object": _item(subscribe={"a": 1}),
    "subscribe is null": _item(subscribe=None),
    "subscribe to 20,000 names": _item(subscribe=[f"odd-{number}" for number in range(20_000)]),
    "unsubscribe from an empty name": _item(unsubscribe=[""]),
    "unsubscribe from a name of 300 letters": _item(unsubscribe=["g" * 300]),
    "unsubscribe from what it is not in": _item(unsubscribe=["never"]),
    "unsubscribe from a number": _item(unsubscribe=[7]),
    "subscribe and unsubscribe an empty name": _item(subscribe=[""], unsubscribe=[""]),
    "an envelope that is an empty object": _item(envelope={}),
    "an envelope that is a number": _item(envelope=7),
    "an envelope that is null": _item(envelope=None),
    "an envelope that is a text": _item(envelope="hello"),
    "an envelope that is an array": _item(envelope=[_ENVELOPE]),
    "an envelope without an id": _item(envelope={"action": "odd.item", "data": {}, "version": "1.0"}),
    "an envelope of another version": _item(envelope={**_ENVELOPE, "version": "2.0"}),
    "an envelope with a wrong action": _item(envelope={**_ENVELOPE, "action": "NOT AN ACTION"}),
    "an envelope with a wrong stream": _item(envelope={**_ENVELOPE, "stream": "", "seq": 0}),
    "an envelope with wrong UTF-8": _broken(b'{"msg_id":"m","action":"odd.item","data":{"a":"\xff\xfe"}}'),
    "an envelope with a surrogate in UTF-8": _broken(
        b'{"msg_id":"m","action":"odd.item","data":{"a":"\xed\xa0\x80"}}'
    ),
    "an envelope with NaN": _broken(
        b'{"msg_id":"m","timestamp":1,"action":"odd.item","data":{"a":NaN},"version":"1.0"}'
    ),
    "an envelope that is nested 5,000 deep": _broken(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "an envelope of 2 MiB": _item(envelope={**_ENVELOPE, "data": {"text": "x" * 2**21}, "msg_id": ""}),
    "an answer to nothing": _item(envelope={**_ENVELOPE, "action": "", "correlation_id": 7}),
    "disconnect without a code": _item(disconnect={}),
    "disconnect with a text as code": _item(disconnect={"code": "4502"}),
    "disconnect with null as code": _item(disconnect={"code": None}),
    "disconnect with a number as reason": _item(disconnect={"code": 4502, "reason": 7}),
    "disconnect is a number": _item(disconnect=4502),
    "disconnect is true": _item(disconnect=True),
    "disconnect is an array": _item(disconnect=[4502, "reason"]),
    "a connection that is a number": b'{"connection_id":7,"subscribe":["a"]}',
    "a connection that is null": b'{"connection_id":null,"envelope":{}}',
    "a connection that is an array": b'{"connection_id":["CONNECTION"]}',
    "a connection that is not there": b'{"connection_id":"nobody","subscribe":[""]}',
    "no field at all": b"{}",
    "an array in an array": b'[[{"connection_id":"CONNECTION"}]]',
    "an array of numbers": b"[1,2,3]",
    "an array of nulls": b"[null,null]",
    "a right item after a wrong one": b'[{"connection_id":7},{"connection_id":"CONNECTION","subscribe":["right"]}]',
    "an empty array": b"[]",
    "an empty body": b"",
    "half an item": b'{"connection_id":"CONN',
    "wrong UTF-8": b"\xff\xfe\xfd",
    "a byte order mark": b'\xef\xbb\xbf{"connection_id":"CONNECTION"}',
    "10,000 brackets": b"[" * 10_000,
    "a number": b"7",
    "100,000 empty items": b"[" + b",".join([b"{}"] * 100_000) + b"]",
}

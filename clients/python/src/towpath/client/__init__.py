"""A client for Towpath: requests that get an answer, pushes that are neither missed nor doubled.

::

    from towpath.client import connect, key_of

    async with connect("wss://example.org/ws", token=fetch_token) as client:
        await client.request("chat.join", {"room": "lobby"}, stream="chat:lobby")
        await client.request("chat.send", {"room": "lobby", "text": "Hello!"}, key=key_of("lobby"))
        async for push in client.stream("chat:lobby"):
            print(push["action"], push["data"])

Errors have a code each, as a tree in :mod:`towpath.client.errors`.

The session logic is a state machine without I/O (:mod:`towpath.client.session`); :mod:`towpath.client.driver` drives
it with a WebSocket and timers.
"""

from towpath.client.actions import Incomplete
from towpath.client.client import Client, connect
from towpath.client.driver import Retry
from towpath.client.envelope import Envelope, key_of
from towpath.client.errors import TowpathError
from towpath.client.storage import FileStorage, MemoryStorage, Storage
from towpath.client.streams import StreamReader
from towpath.client.view_reader import Change, Reset, View
from towpath.protocol.names import shown

__all__ = [
    "Change",
    "Client",
    "Envelope",
    "FileStorage",
    "Incomplete",
    "MemoryStorage",
    "Reset",
    "Retry",
    "Storage",
    "StreamReader",
    "TowpathError",
    "View",
    "connect",
    "key_of",
    "shown",
]

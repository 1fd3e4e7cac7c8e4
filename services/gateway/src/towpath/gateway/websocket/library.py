"""The library: each name of the ``websockets`` package that its documentation does not promise is used here only.

``websockets`` offers a coroutine per connection, ``recv()`` and ``send()``. A gateway with 50,000 connections cannot
afford the task, the queue and the two locks behind them, so it takes the library's parser and closing handshake and
does the rest itself. Between both are these names:

===============================  ================================================================================
name                             used for
===============================  ================================================================================
``process_event``                each parsed frame goes to :meth:`LibraryConnection.on_frame`, not into a queue
``send_data``                    the library's own frames (pongs, closes) go to :meth:`LibraryConnection.on_output`
``handshake``                    the end of the opening handshake
``data_received``                called with a slice of the bytes instead of all of them
``eof_received``                 called after the last slice, although the end was received before
``protocol.handshake_exc``       the answer to bytes that are not HTTP; a cycle of references
``protocol.parser_exc``          a cycle of references
``protocol.parser``              a cycle of references
``protocol.select_subprotocol``  a cycle of references
===============================  ================================================================================

``tests/test_library.py`` has one test for each, which says what breaks if the name is gone; the metadata of this
distribution bounds the version of ``websockets`` on both sides. Every other name in this folder is documented:
``serve`` and ``create_connection``, and the Sans-I/O protocol (``state``, ``send_ping``, ``data_to_send``).
"""

from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidMessage
from websockets.frames import Frame
from websockets.protocol import Event


class LibraryConnection(ServerConnection):
    """A connection of ``websockets`` that hands each frame, and each output of the library, to its subclass.

    Attributes:
        events_parsed: Number of the requests and frames parsed so far.
    """

    events_parsed = 0

    # Aliases, not methods that call them: one call less for each read and each frame.

    #: Parse bytes from the client: the request, then frames. Calls :meth:`on_frame` and :meth:`on_output`.
    parse_bytes = ServerConnection.data_received
    #: Handle the client's end of file, after which no bytes are parsed.
    parse_end = ServerConnection.eof_received
    #: Let the library handle a control frame (it answers pings by itself, section 5.5.2 of RFC 6455).
    handle_control = ServerConnection.process_event

    def on_frame(self, frame: Frame) -> None:
        """One frame was parsed."""
        raise NotImplementedError

    def on_output(self, output: list[bytes]) -> None:
        """The library wants to write ``output``; an empty element means the end of the stream."""
        raise NotImplementedError

    def on_handshake_over(self) -> None:
        """The opening handshake succeeded, failed or was cancelled."""
        raise NotImplementedError

    def process_event(self, event: Event) -> None:
        # Counted for the size of the next slice: a slice in which no frame ended was cheap to parse.
        self.events_parsed += 1
        # The other event is the HTTP request, which the library's handshake waits for.
        if isinstance(event, Frame):
            self.on_frame(event)
        else:
            super().process_event(event)

    def send_data(self) -> None:
        # Mostly nothing: the library calls this after each slice that it parses.
        if output := self.protocol.data_to_send():
            self.on_output(output)

    async def handshake(self, *args: Any, **options: Any) -> None:
        try:
            await super().handshake(*args, **options)
        finally:
            self.on_handshake_over()

    def got_no_request(self) -> bool:
        """Whether the bytes received are not an HTTP request, and not merely an incomplete one."""
        error = self.protocol.handshake_exc
        return (
            isinstance(error, InvalidMessage)
            # The library reports a connection that ended within its request the same way, caused by an EOFError. Its
            # client has gone, so an answer would have no reader.
            and not isinstance(error.__cause__, EOFError)
            and self.request is None
        )

    def break_cycles(self, *, is_lost: bool) -> None:
        """Drop references to errors: their tracebacks refer to this connection, which refers to them.

        Such cycles wait for the garbage collector, which runs rarely: thousands of failed handshakes would hold 60
        MiB for minutes. To be called when the handshake is over, and again when the connection is lost.
        """
        # Only this reference is dropped: the handshake, which raises the error, is over.
        self.protocol.handshake_exc = None
        if (error := self.protocol.parser_exc) is not None:
            # Kept without its traceback: the library names it as the cause of the close.
            error.with_traceback(None)
        if is_lost:
            self.protocol.parser.close()
            vars(self.protocol).pop("select_subprotocol", None)  # a closure over this connection

"""The listener: accepts WebSockets, and follows each from its handshake to its end.

Guarantees: nothing is read from a connection before it is admitted; its welcome is sent once pushes to its user are
routed to this replica, and is its first frame; binary frames close with 1003, large ones with 1009. A session that
was opened is closed exactly once, whatever ends its connection.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Final, Protocol

from websockets.asyncio.server import Server, ServerConnection, serve

from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.gateway.websocket.handshake import Handshake
from towpath.gateway.websocket.receiver import Receiver
from towpath.gateway.websocket.socket import Shared, Socket
from towpath.protocol.close_codes import CloseCode
from towpath.servicekit.runtime.listening import LISTEN_ERRORS, cannot_listen

#: websockets logs each refused handshake as an error; ours are counted, not faults.
_QUIET: Final = logging.getLogger("towpath.gateway.websockets")
_QUIET.setLevel(logging.CRITICAL)
#: The limit at which websockets would pause its own send(); small writes are left to the kernel.
_WRITE_LIMIT: Final = 64 * 1024
#: The listen backlog: the maximum of Linux, because after a restart all clients connect at once.
_BACKLOG: Final = 4096


class Host(Protocol):
    """The sessions of this replica, as the listener needs them."""

    def routed_to(self, user_id: str) -> AbstractAsyncContextManager[None]:
        """Context in which pushes to a user are routed to this replica; entry waits for that."""
        ...

    def open(self, socket: Socket) -> Session:
        """Open the session of an admitted connection, and send its welcome."""
        ...

    def receive(self, session: Session, text: bytes) -> None:
        """Handle one text message."""
        ...

    def close(self, session: Session, code: int | None) -> None:
        """The connection has ended, with this close code if there was one."""
        ...


class Listener:
    """Accepts connections while it is open; created with :meth:`open`."""

    def __init__(self, host: Host, handshake: Handshake, shared: Shared, settings: GatewaySettings) -> None:
        self._host = host
        self._handshake = handshake
        self._shared = shared
        self._settings = settings

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Server]:
        """Serve ``/ws`` from entry to exit, with TLS if there is a certificate.

        Raises:
            BadSetting: The port is in use, or the host is not an address of this machine.
        """
        settings = self._settings
        try:
            server = await serve(
                self._serve_connection,
                settings.host,
                settings.port,
                select_subprotocol=self._handshake.select_subprotocol,
                # A compressed frame depends on its connection (RFC 7692), and a compression context costs 64 KiB.
                compression=None,
                process_request=self._handshake.check,
                server_header=None,
                open_timeout=settings.open_timeout,
                ping_interval=None,  # towpath.gateway.sessions.heartbeat pings, without a task per connection
                close_timeout=settings.close_timeout,
                # The library answers 1009 (RFC 6455, section 7.4.1) before it stores the frame: the header has the
                # length.
                max_size=settings.max_frame_bytes,
                write_limit=_WRITE_LIMIT,
                backlog=_BACKLOG,
                create_connection=self._create_socket,  # type: ignore[arg-type]  # documented: a factory will do
                logger=_QUIET,
            )
        except LISTEN_ERRORS as error:
            raise cannot_listen(
                error, settings.host, settings.port, host_setting="TOWPATH_HOST", port_setting="TOWPATH_PORT"
            ) from None
        # The door is left last: until then SIGHUP reloads the certificate, and afterwards it ends the program.
        async with self._shared.door.opened() if self._shared.door is not None else nullcontext():
            try:
                yield server
            finally:
                # After the drain only connections are left that were admitted while it ran: 1012 lets them reconnect
                # elsewhere.
                server.close(code=CloseCode.SERVICE_RESTART)
                # websockets waits for them until open_timeout.
                self._shared.entrance.abort_unfinished()
                await server.wait_closed()
                # Last: a closing handshake ends in a task of its own, which must not outlive the listener.
                await self._shared.closing.wait()

    def _create_socket(self, *args: Any, **options: Any) -> Socket:
        return Socket(*args, shared=self._shared, **options)

    async def _serve_connection(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Socket)
        socket, host = connection, self._host
        socket.owner = socket.identity.user_id
        # Before the welcome: a push published right after it would be lost without a binding (docs/adr/0011).
        async with host.routed_to(socket.identity.user_id):
            session = host.open(socket)
            socket.connection_id = session.connection_id
            try:
                socket.begin(
                    Receiver(
                        partial(host.receive, session),
                        session.close,
                        session.charge_frame,
                        connection_id=session.connection_id,
                    )
                )
                await socket.wait_closed()
            finally:
                socket.receiver = None  # a cycle: it refers to the session, which refers to the socket
                session.ended()
                host.close(session, socket.close_code)

"""The gateway: holds the WebSockets of clients, and passes envelopes between them and the broker.

It knows no action, no payload and no database; services own all of these. It stores nothing about a connection after
its end, so any replica serves any client, and a lost replica costs its clients a reconnect.

Where to begin: :mod:`~towpath.gateway.app` runs the program, :mod:`~towpath.gateway.replica` builds all parts of it
and connects them. Then follow one of the two paths.

A frame, from its client to a service:

1. ``websocket.reading`` parses the bytes that arrived, within the connection's share of the event loop's time.
2. ``websocket.receiver`` assembles the frames to one text.
3. ``forwarding.inbound`` reads the envelope's head, and charges the message to the limits (``sessions.allowance``).
4. It wraps the text, unchanged, with the session (user, connection, gateway), and posts it to the lane of its domain
   and partition, which publishes to ``towpath.commands``.
5. If the broker does not confirm, the client gets an error. Else the service answers: a push, as below.

A push, from a service to clients:

1. ``inbox.queue`` is the replica's queue; ``inbox.routing`` binds it to the keys of connected users.
2. ``forwarding.outbound`` takes a delivery, and looks up the receivers of its key (``sessions.members``).
3. ``forwarding.directed`` checks the items for single connections; a push to many is checked and framed once
   (``websocket.frames``).
4. ``websocket.socket`` buffers the frames until the end of the loop iteration, or writes them at once to many; bytes
   that clients do not read count in ``websocket.backlog``.

The folders, each of which imports only those after it: ``forwarding``, ``websocket`` and ``inbox``, ``sessions``,
``admission``.
"""

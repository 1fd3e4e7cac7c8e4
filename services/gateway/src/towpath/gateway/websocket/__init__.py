"""WebSocket: the only folder that imports the ``websockets`` package, and ``library`` the only module that needs its
undocumented names.

By direction: ``listener`` and ``handshake`` accept a connection, ``counted``; ``reading`` parses what arrives, in
slices of ``parse_turns``, and passes it to ``receiver``; ``socket`` sends ``frames``, gathered by ``writes`` and
bounded by ``backlog``; ``closing`` ends it.
"""

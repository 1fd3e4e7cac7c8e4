"""Admission: whether a client may connect. It knows no WebSocket.

Guarantees: a socket is counted from its acceptance (``entrance``), within the open files of the process
(``descriptor_share``); a connect is charged to its address and its user (``connect_rates``); a token and an origin
are accepted or refused with a reason (``credentials``).
"""

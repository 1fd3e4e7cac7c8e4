"""The reasons for which a handshake is refused, each in a word: the label of ``connections_refused_total``."""

import enum


class Reason(enum.StrEnum):
    """One reason, with the status of the answer."""

    ADDRESS_RATE = "address_rate"  #: 429
    USER_RATE = "user_rate"  #: 429
    PATH = "path"  #: 404
    HEADER = "header"  #: 400
    SUBPROTOCOL = "subprotocol"  #: 400
    ORIGIN = "origin"  #: 403
    NOT_READY = "not_ready"  #: 503
    FULL = "full"  #: 503
    NO_KEYS = "no_keys"  #: 503
    MISSING = "no_token"  #: 401
    INVALID = "token_invalid"  #: 401
    EXPIRED = "token_expired"  #: 401
    REVOKED = "token_revoked"  #: 401

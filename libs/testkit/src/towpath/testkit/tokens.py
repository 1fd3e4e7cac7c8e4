"""Tokens that a gateway takes, and on request ones that it must not take."""

import time
from collections.abc import Mapping
from typing import Any, Final

import jwt

#: The secret that tests give to gateways as ``TOWPATH_AUTH_SECRET``.
SECRET: Final = "a secret for tests, of 32 bytes or more"
#: Settings of a gateway that accepts tokens signed with it. It is in this repository, so only development mode allows
#: it.
AUTH_SETTINGS: Final[Mapping[str, Any]] = {"auth_secret": SECRET, "development": True}
#: Seconds. A token that is made while a module of tests is imported outlives the slowest run of them.
A_DAY: Final = 86_400.0


def a_token(user: str, *, secret: str = SECRET, expires_in: float = A_DAY, **claims: Any) -> str:
    """A signed token (HS256) for ``user``.

    Args:
        user: The ``sub`` claim.
        secret: The key that signs it.
        expires_in: Seconds until it expires; negative for one that has expired.
        claims: More claims, e.g. ``scope="chat order"``; ``None`` takes a claim away.
    """
    now = time.time()
    payload = {"sub": user, "aud": "towpath", "iat": int(now), "exp": now + expires_in, **claims}
    return jwt.encode({name: value for name, value in payload.items() if value is not None}, secret, "HS256")

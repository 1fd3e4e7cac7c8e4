"""Tokens for development, signed with the shared secret; in production an identity provider issues them."""

import os
import secrets
import time
import warnings
from typing import Final

import jwt

from towpath.protocol.routes import check_user_id
from towpath.servicekit.runtime.settings import BadSetting, no_surrounding_space
from towpath.tools.data_folder import DataFolder
from towpath.tools.trouble import Trouble

AUTH_SECRET: Final = "TOWPATH_AUTH_SECRET"  # noqa: S105  # a setting's name
AUDIENCE: Final = "towpath"
LIFETIME_SECONDS: Final = 3600


class BadUser(Trouble):
    """A user name that cannot be used."""

    status = 2


def sign(user: str, secret: str, *, expires_in: int = LIFETIME_SECONDS, scope: str | None = None) -> str:
    """A token for ``user`` (JWT, HS256).

    Args:
        expires_in: Seconds until it expires.
        scope: Domains the user may address, separated by spaces; all when ``None``.

    Raises:
        BadUser
    """
    try:
        check_user_id(user)
    except ValueError as error:
        raise BadUser(f"user {user[:70]!a} cannot be used: {error}") from None
    now = int(time.time())
    claims: dict[str, object] = {"sub": user, "aud": AUDIENCE, "iat": now, "exp": now + expires_in}
    claims["jti"] = secrets.token_urlsafe(12)  # so that `towpath revoke --token` can name it
    if scope is not None:
        claims["scope"] = scope
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about short secrets, which a gateway refuses
        return jwt.encode(claims, secret, "HS256")


def secret_of(folder: DataFolder) -> str:
    """The secret that a gateway here takes: ``TOWPATH_AUTH_SECRET``, or the one ``towpath dev`` made.

    Raises:
        BadSetting: There is none.
    """
    secret = os.environ.get(AUTH_SECRET) or folder.known_secret()
    if secret is None:
        raise BadSetting(
            AUTH_SECRET,
            None,
            f"is not set, and {folder}/secret is not there: set it to the gateway's secret, or start "
            "`towpath dev` once, which makes one",
        )
    try:
        return no_surrounding_space(secret)
    except ValueError as error:
        raise BadSetting(AUTH_SECRET, None, str(error)) from None

"""A token issuer with its key set (JWKS) over HTTP: it signs, rotates its keys, and misbehaves on request."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from towpath.testkit.ports import free_port

_MAKE: dict[str, Any] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


class SigningKey:
    """One key pair of an issuer.

    Attributes:
        jwk: The public key as the key set shows it.
    """

    def __init__(self, kid: str | None, algorithm: str = "ES256") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private: Any = _MAKE[algorithm]()
        shown = jwt.get_algorithm_by_name(algorithm).to_jwk(self.private.public_key(), as_dict=True)
        self.jwk: dict[str, Any] = {**shown, "use": "sig", "alg": algorithm}
        self.jwk |= {} if kid is None else {"kid": kid}

    def token(self, user: str, *, expires_in: float = 3600.0, **claims: Any) -> str:
        """A signed token for ``user``; ``None`` takes a claim away."""
        now = time.time()
        payload = {"sub": user, "aud": "towpath", "iat": int(now), "exp": now + expires_in, **claims}
        given = {name: value for name, value in payload.items() if value is not None}
        headers = {} if self.kid is None else {"kid": self.kid}
        # Not `jwt.encode`, which refuses to sign some claims that a gateway must refuse to take.
        signed = jwt.PyJWS().encode(
            json.dumps(given).encode(), self.private, self.algorithm, headers={"typ": "JWT", **headers}
        )
        return str(signed)


class TokenIssuer:
    """An issuer; run it with :func:`an_issuer`.

    Attributes:
        url: Of its key set.
        keys: Those in its key set; assign a list to rotate them.
        fetches: Number of requests for the key set.
        body, status, headers: Of the answers, instead of the key set.
        delay: Seconds that an answer takes.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.keys = [SigningKey("first")]
        self.fetches = 0
        self.body: bytes | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys"

    def token(self, user: str, **claims: Any) -> str:
        """A token signed with the newest key."""
        return self.keys[-1].token(user, **claims)

    def rotate(self, algorithm: str = "ES256") -> SigningKey:
        """Begin to sign with a new key, and publish it alone; returns the former key."""
        former = self.keys[-1]
        self.keys = [SigningKey(f"{former.kid}+", algorithm)]
        return former

    async def _answer(self, _: web.Request) -> web.Response:
        self.fetches += 1
        await asyncio.sleep(self.delay)
        body = self.body
        if body is None:
            body = json.dumps({"keys": [key.jwk for key in self.keys]}).encode()
        return web.Response(body=body, status=self.status, headers=self.headers)


@asynccontextmanager
async def an_issuer(port: int | None = None) -> AsyncIterator[TokenIssuer]:
    """An issuer that serves its key set from entry to exit."""
    issuer = TokenIssuer(port or free_port())
    app = web.Application()
    app.router.add_get("/keys", issuer._answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", issuer.port).start()
        yield issuer
    finally:
        await runner.cleanup()

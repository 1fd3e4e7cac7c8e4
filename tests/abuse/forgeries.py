"""Tokens that no gateway may accept, by the trick; each is made from the claims of an honest one."""

import base64
import hmac
import json
import time
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from towpath.testkit.tokens import SECRET, a_token

_USER: Final = "ana"
_WEAK: Final = (
    "",
    "a",
    "secret",
    "towpath",
    "password",
    "changeme",
    "null",
    "{}",
    SECRET[:-1],
    SECRET.upper(),
)
_KIDS: Final = (
    "../../../../dev/null",
    "/dev/null",
    "' UNION SELECT ''--",
    "0",
    "http://127.0.0.1/key",
    "|id",
    "\x00",
)
_LOCATIONS: Final = ("jku", "x5u")


def forged_tokens() -> dict[str, str]:
    """By the trick."""
    return _unsigned() | _other_keys() | _altered() | _wrong_claims() | _wrong_forms()


def _claims(**changed: Any) -> dict[str, Any]:
    now = time.time()
    claims = {"sub": _USER, "aud": "towpath", "iat": int(now), "exp": now + 3600, **changed}
    return {name: value for name, value in claims.items() if value is not None}


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _unsigned() -> dict[str, str]:
    found = {}
    for spelled in ("none", "None", "NONE", "nOnE"):
        head = f"{_part({'alg': spelled, 'typ': 'JWT'})}.{_part(_claims())}"
        found[f"alg {spelled}"] = f"{head}."
        found[f"alg {spelled} with a signature"] = head + "." + a_token(_USER).rpartition(".")[2]
    head = a_token(_USER).rpartition(".")[0]
    return found | {"no signature": f"{head}.", "no third part": head, "null signature": f"{head}.AAAA"}


def _other_keys() -> dict[str, str]:
    claims = _claims()
    own_rsa = rsa.generate_private_key(65_537, 2048)
    own = {
        "RS256": own_rsa,
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    found = {f"signed with an own key, {name}": jwt.encode(claims, key, name) for name, key in own.items()}  # type: ignore[arg-type]
    found |= {
        f"the right secret, {name}": jwt.encode(claims, SECRET * 2, name) for name in ("HS384", "HS512")
    }
    for name in ("HS384", "HS512"):
        found[f"HS256 by the right secret, called {name}"] = _hs256(claims, SECRET, alg=name)
    for key in _WEAK:
        found[f"signed with {key!r}"] = _hs256(claims, key)
    for kid in _KIDS:
        found[f"kid {kid!r}, empty key"] = _hs256(claims, "", kid=kid)
    for name in _LOCATIONS:
        headers = {name: "http://127.0.0.1:9/keys.json", "kid": "mine"}
        found[f"key at {name}"] = jwt.encode(claims, own_rsa, "RS256", headers=headers)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(own_rsa.public_key()))
    found["own key in jwk"] = jwt.encode(claims, own_rsa, "RS256", headers={"jwk": public})
    der = own_rsa.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    found["own key in x5c"] = jwt.encode(
        claims, own_rsa, "RS256", headers={"x5c": [base64.b64encode(der).decode()]}
    )
    return found


def _altered() -> dict[str, str]:
    head, payload, signature = a_token(_USER).split(".")
    other = a_token("bob").split(".")
    return {
        "payload of another token": f"{head}.{other[1]}.{signature}",
        "signature of another token": f"{head}.{payload}.{other[2]}",
        "another user in the payload": f"{head}.{_part(_claims(sub='admin'))}.{signature}",
        "a longer life in the payload": f"{head}.{_part(_claims(exp=9e9))}.{signature}",
        "a wider scope in the payload": f"{head}.{_part(_claims(scope='chat order'))}.{signature}",
        "crit of an unknown extension": _hs256(_claims(), SECRET, crit=["towpath"], towpath=1),
        "payload that is not encoded": _hs256(_claims(), SECRET, b64=False, crit=["b64"]),
    }


def _wrong_claims() -> dict[str, str]:
    now = time.time()
    changed: dict[str, dict[str, Any]] = {
        "expired": {"exp": now - 1},
        "expired long ago": {"exp": 0},
        "expires before 1970": {"exp": -1},
        "no expiry": {"exp": None},
        "expiry as a word": {"exp": "never"},
        "expiry as a list": {"exp": [now + 60]},
        "expiry in milliseconds": {"exp": now * 1000 * 1000},
        "not yet valid": {"nbf": now + 3600},
        "issued in an hour": {"iat": now + 3600},
        "for another audience": {"aud": "another"},
        "for no audience": {"aud": None},
        "for a list of others": {"aud": ["a", "b"]},
        "audience as an object": {"aud": {"towpath": 1}},
        "audience with a blank": {"aud": "towpath "},
        "no user": {"sub": None},
        "an empty user": {"sub": ""},
        "user as a number": {"sub": 7},
        "user as a list": {"sub": [_USER]},
        "user with a line break": {"sub": "an\na"},
        "user with a NUL": {"sub": "ana\x00"},
        "user of 129 letters": {"sub": "x" * 129},
        "user of 300 encoded bytes": {"sub": "ä" * 100},
        "scope as a list": {"scope": ["chat"]},
    }
    return {name: a_token(_USER, **claims) for name, claims in changed.items()}


def _wrong_forms() -> dict[str, str]:
    token = a_token(_USER)
    head, payload, signature = token.split(".")
    return {
        "empty": "",
        "two tokens in one": f"{token}.{token}",
        "five parts": f"{head}.{payload}.{signature}.{signature}.{signature}",
        "header that is not an object": f"{_part([])}.{payload}.{signature}",
        "payload that is not an object": f"{head}.{_part('ana')}.{signature}",
        "a header 500 levels deep": base64.urlsafe_b64encode(b"[" * 500).decode() + f".{payload}.{signature}",
        "more than 8 KiB": a_token(_USER, padding="x" * 9_000),
        "not base64": "!.!.!",
    }


def _hs256(claims: dict[str, Any], secret: str, **header: Any) -> str:
    """Signed by hand: PyJWT refuses to make some of these."""
    head = f"{_part({'alg': 'HS256', 'typ': 'JWT', **header})}.{_part(claims)}"
    signature = hmac.digest(secret.encode(), head.encode(), "sha256")
    return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

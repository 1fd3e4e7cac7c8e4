"""Forged tokens of jwt_tool, each presented to a gateway in all three ways in which a gateway takes tokens.

jwt_tool (github.com/ticarpi/jwt_tool, GPL-3) is run as a program, in an environment of its own, and nothing of it is
copied. It forges from one valid token of each kind that a gateway may take: signed with a shared secret, with the
private key of a configured public key, and with a key of an issuer's key set. A forgery is presented in the header of
a handshake, in its subprotocol, and in the ``session.refresh`` of an open connection; each has to be refused, without
a request to the server that the forgery names (``jku``).
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from websockets.exceptions import InvalidStatus

from judges.needs import ROOT
from towpath.testkit.client import WireClient
from towpath.testkit.gateway import GatewayUnderTest, a_gateway
from towpath.testkit.issuer import SigningKey, an_issuer
from towpath.testkit.system import LOAD_RATES
from towpath.testkit.tokens import a_token

_ENVIRONMENT: Final = ROOT / ".venv-jwt_tool"
_REQUIREMENTS: Final = ROOT / "judges/jwt_tool.txt"
#: Runs of jwt_tool at the same time.
_AT_ONCE: Final = 2
_TOKEN: Final = re.compile(r"eyJ[\w-]*\.[\w-]*\.[\w-]*")


@dataclass(frozen=True, slots=True)
class Subject:
    """A gateway and a token that it takes.

    Attributes:
        kind: The name of its cases.
        token: The valid token.
        public_key: A file with what is public of its key, from which a forger may take the secret of an HMAC.
    """

    kind: str
    gateway: GatewayUnderTest
    token: str
    public_key: Path


def forgeries(public_key: Path, key_set_url: str, values: Path, home: Path) -> dict[str, list[str]]:
    """The arguments of jwt_tool by the name of the forgery."""
    exploits = {
        "alg none": ["-X", "a"],
        "no signature": ["-X", "n"],
        "blank secret": ["-X", "b"],
        "key inside": ["-X", "i"],
        "key set of the forger": ["-X", "s", "-ju", key_set_url],
        "public key as secret": ["-X", "k", "-pk", str(public_key)],
    }
    own = home / ".jwt_tool"
    signed = {
        **{
            f"{name} of the forger": ["-S", name, "-pr", str(own / "jwttool_custom_private_RSA.pem")]
            for name in ("rs256", "ps512")
        },
        "es256 of the forger": ["-S", "es256", "-pr", str(own / "jwttool_custom_private_EC.pem")],
        "hs256 of a known secret": ["-S", "hs256", "-p", "secret"],
    }
    as_another = ["-I", "-pc", "sub", "-pv", "admin"]
    return {
        **exploits,
        **{f"{name}, another user": [*as_another, *arguments] for name, arguments in exploits.items()},
        **{f"{name}, another user": [*as_another, *arguments] for name, arguments in signed.items()},
        "key id is a file": ["-I", "-hc", "kid", "-hv", "../../../../dev/null", "-S", "hs256", "-p", ""],
        "claims changed": ["-I", "-pc", "sub", "-pv", str(values)],
        "header changed": ["-I", "-hc", "alg", "-hv", str(values)],
        "expires later": ["-I", "-pc", "exp", "-pv", "99999999999"],
    }


class Forger:
    """jwt_tool with a home of its own, where it keeps its keys and its log.

    Args:
        folder: The clone.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self._command = [str(_ENVIRONMENT / "bin/python"), str(folder / "jwt_tool.py")]
        self._home = home
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def prepare(self) -> None:
        """Let it make its keys; it does that when it is first run, and ends with 1."""
        await self._run(a_token("ana"))
        if not (self._home / ".jwt_tool/jwtconf.ini").exists():
            raise RuntimeError("jwt_tool has made no configuration")

    async def forge(self, token: str, arguments: Sequence[str]) -> list[str]:
        """The tokens that it makes of ``token``, which is none of them."""
        printed = await self._run(token, *arguments, "-b")
        found = [one for one in dict.fromkeys(_TOKEN.findall(printed)) if one != token]
        if not found:
            raise RuntimeError(f"jwt_tool {' '.join(arguments)} made no token; it printed: {printed[-500:]}")
        return found

    async def _run(self, *arguments: str) -> str:
        async with self._places:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *arguments,
                cwd=self._home,
                # Its own home, and no settings of this one.
                env={"HOME": str(self._home), "PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            async with asyncio.timeout(60):
                printed, _ = await process.communicate()
        return printed.decode("utf-8", "replace")


async def judge(folder: Path) -> dict[str, str]:
    """The outcome of each forgery."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        forger = Forger(folder, home)
        values = home / "values.txt"
        values.write_text(
            "\n".join(("root", "none", "HS256", "' or 1=1--", "null", "0", "../../etc/passwd", "a\u202eb"))
        )
        async with an_issuer() as forged, _subjects(home) as subjects:
            await forger.prepare()
            cases: dict[str, str] = {}
            for subject in subjects:
                await _check_valid(subject)
                wanted = forgeries(subject.public_key, forged.url, values, home)
                made = await asyncio.gather(*(forger.forge(subject.token, one) for one in wanted.values()))
                for name, tokens in zip(wanted, made, strict=True):
                    for number, token in enumerate(tokens, 1):
                        cases[f"{subject.kind}: {name} {number}"] = await _present(subject, token)
            cases["no forger's key set is fetched"] = (
                f"fetched {forged.fetches} times" if forged.fetches else "ok"
            )
        return cases


async def _present(subject: Subject, token: str) -> str:
    """``ok`` if the gateway refuses it in every way, else the way in which it let it in."""
    for via in ("header", "subprotocol"):
        status = await _status(subject.gateway, token, via)
        if status != 401:
            return f"{status} by {via}"
    async with subject.gateway.connect(token=subject.token) as client:
        answer = await client.request("session.refresh", {"token": token})
    code = answer["data"].get("code")
    return "ok" if code == "unauthorized" else f"{code or 'let in'} by refresh"


async def _status(gateway: GatewayUnderTest, token: str, via: Any) -> int:
    try:
        async with WireClient.connect(gateway.url, token=token, via=via) as client:
            await client.next("session.welcome")
    except InvalidStatus as refused:
        return refused.response.status_code
    return 101


async def _check_valid(subject: Subject) -> None:
    """A gateway that refuses everything would pass."""
    for via in ("header", "subprotocol"):
        if (status := await _status(subject.gateway, subject.token, via)) != 101:
            raise RuntimeError(f"{subject.kind}: the valid token is answered {status} by {via}")


# The gateways


@asynccontextmanager
async def _subjects(home: Path) -> AsyncIterator[list[Subject]]:
    """A gateway for each kind of token, with RSA keys: jwt_tool confuses those with secrets."""
    keys = {kind: SigningKey("first", "RS256") for kind in ("secret", "public key", "key set")}
    pems = {kind: home / f"{kind}.pem".replace(" ", "-") for kind in keys}
    for kind, key in keys.items():
        pems[kind].write_bytes(
            key.private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    async with AsyncExitStack() as stack:
        issuer = await stack.enter_async_context(an_issuer())
        issuer.keys = [keys["key set"]]
        settings: dict[str, dict[str, Any]] = {
            "secret": {},
            "public key": {"auth_secret": None, "auth_public_key": pems["public key"].read_text()},
            "key set": {"auth_secret": None, "auth_jwks_url": issuer.url},
        }
        tokens = {
            "secret": a_token("ana"),
            **{kind: keys[kind].token("ana") for kind in ("public key", "key set")},
        }
        yield [
            Subject(
                kind,
                await stack.enter_async_context(a_gateway(**LOAD_RATES, **settings[kind])),
                tokens[kind],
                pems[kind],
            )
            for kind in keys
        ]


def main() -> None:
    """Write the outcome of each forgery to ``--output``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    _install()
    cases = asyncio.run(judge(Path(os.environ["JWT_TOOL"]).resolve()))
    asked.output.write_text(json.dumps({"cases": cases}))


def _install() -> None:
    """Put what jwt_tool imports into an environment of its own, once."""
    ready = _ENVIRONMENT / "ready"
    if ready.exists() and ready.stat().st_mtime >= _REQUIREMENTS.stat().st_mtime:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(_ENVIRONMENT)], check=True)
    uv = [str(Path(sys.executable).parent / "uv"), "pip", "sync", "--quiet", "--require-hashes"]
    subprocess.run(
        [*uv, str(_REQUIREMENTS)],
        env={**os.environ, "VIRTUAL_ENV": str(_ENVIRONMENT)},
        check=True,
        timeout=60,
    )
    ready.touch()


if __name__ == "__main__":
    main()

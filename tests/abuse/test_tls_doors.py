"""TLS: handshakes without an end lock out no client, and a server is trusted by its certificate only."""

import asyncio
import dataclasses
import shutil
import ssl
import time
import warnings
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError
from websockets.exceptions import InvalidHandshake

from towpath.servicekit.runtime.settings import BrokerSettings, ServiceSettings
from towpath.servicekit.runtime.tls import TlsFiles
from towpath.testkit.certificates import Authority, Issued
from towpath.testkit.client import WireClient
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import SECRET, a_token
from towpath.testkit.weak_options import WEAK_BROKER_OPTIONS, WEAK_DATABASE_OPTIONS

from .plans import HalfOpen
from .program import Program
from .trial import Trial

_DESCRIPTORS: Final = 1_024
_NEWCOMERS: Final = 16


def _launch(processes: Processes, rabbitmq: Rabbit, own: Issued, *before: str) -> Process:
    program = shutil.which("towpath-gateway")
    assert program is not None
    command = [*before, program]
    return processes.launch(
        *command,
        name="towpath-gateway",
        amqp_url=rabbitmq.url,
        auth_secret=SECRET,
        development=1,
        port=free_port(),
        tls_certificate=own.certificate,
        tls_key=own.key,
    )


def _trusting(authority: Authority) -> ssl.SSLContext:
    return TlsFiles("TEST", ca=authority.ca).client_context()


@pytest.mark.parametrize("manner", ["silent", "hello"])
async def test_tls_handshakes_without_an_end_block_no_client(
    rabbitmq: Rabbit, processes: Processes, trial: Trial, tmp_path: Path, manner: str
) -> None:
    prlimit = shutil.which("prlimit")
    assert prlimit is not None, "prlimit is missing (Debian's package util-linux)"
    authority = Authority(tmp_path)
    limited = [prlimit, f"--nofile={_DESCRIPTORS}:{_DESCRIPTORS}"]
    gateway = _launch(processes, rabbitmq, authority.issue("localhost"), *limited)
    await gateway.ready(timeout=60)
    port = int(gateway.settings["TOWPATH_PORT"])
    said = {"silent": "silent", "hello": "the first message only"}[manner]
    async with trial.counted(
        f"1,500 TLS handshakes without an end ({said}) at nofile {_DESCRIPTORS:,}, from one address"
    ) as line:
        plan = HalfOpen(1_500, manner, seconds=_NEWCOMERS / 2 + 2)
        asked = {"attack": "HalfOpen", "options": dataclasses.asdict(plan), "port": port, "seed": trial.seed}
        waits, failed = [], []
        async with Program.start("attacker", asked) as attacker:
            attacker.go()
            await asyncio.sleep(1.0)  # until the limits are reached
            for number in range(_NEWCOMERS):
                began = time.monotonic()
                try:
                    async with WireClient.connect(
                        f"wss://localhost:{port}/ws", token=a_token(f"new{number}"), ssl=_trusting(authority)
                    ) as newcomer:
                        await newcomer.next("session.welcome")
                        waits.append(time.monotonic() - began)
                except (OSError, TimeoutError, InvalidHandshake) as error:
                    failed.append(repr(error))
                await asyncio.sleep(0.5)
            loot = await attacker.result()
        line.got_in = f"{loot['connections']:,} connections; slowest newcomer {max(waits, default=0):.2f} s"
        line.expect(not failed, f"newcomers were shut out: {failed}")
        line.expect(max(waits, default=99) <= 1, f"a newcomer waited {max(waits, default=0):.1f} s")
    assert await gateway.terminate() == 0


@pytest.mark.abuse_short
async def test_a_server_without_a_certificate_for_the_right_name_is_not_trusted(
    rabbitmq: Rabbit, processes: Processes, trial: Trial, tmp_path: Path
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    servers = {
        "a certificate of another authority": other.issue("localhost"),
        "a certificate for another name": authority.issue("gateway.example"),
        "a certificate that has expired": authority.issue("localhost", not_after=yesterday),
    }
    async with trial.door("a connection that is not encrypted, or to a server that is not verified") as door:
        weak = [
            *((BrokerSettings, "amqp_url", "amqps://a:b@broker/", option) for option in WEAK_BROKER_OPTIONS),
            *(
                (ServiceSettings, "database_url", "postgresql://a:b@db/x", one)
                for one in WEAK_DATABASE_OPTIONS
            ),
        ]
        for model, setting, address, option in weak:
            held = _is_refused(model, setting, f"{address}?{option}")
            door.refused(held, f"{setting} with {option}")
        for what, own in servers.items():
            async with _a_gateway(processes, rabbitmq, own) as url:
                door.refused(not await _opens(url, _trusting(authority)), what)
        async with _a_gateway(processes, rabbitmq, authority.issue("localhost")) as url:
            door.refused(not await _opens(url.replace("wss:", "ws:"), None), "a connection without TLS")
            for version in ("TLSv1", "TLSv1_1"):
                door.refused(not await _opens(url, _only(version, authority)), version)
            door.expect(await _opens(url, _trusting(authority)), "a trusting client was refused")


@asynccontextmanager
async def _a_gateway(processes: Processes, rabbitmq: Rabbit, own: Issued) -> Any:
    gateway = _launch(processes, rabbitmq, own)
    await gateway.ready(timeout=60)
    yield f"wss://localhost:{gateway.settings['TOWPATH_PORT']}/ws"
    await gateway.terminate()


async def _opens(url: str, tls: ssl.SSLContext | None) -> bool:
    try:
        async with WireClient.connect(url, token=a_token("ana"), ssl=tls) as ana:
            await ana.next("session.welcome")
    except (OSError, InvalidHandshake):
        return False
    return True


def _is_refused(model: Callable[..., object], setting: str, address: str) -> bool:
    try:
        model(**{setting: address})
    except ValidationError:
        return True
    return False


def _only(version: str, authority: Authority) -> ssl.SSLContext:
    context = _trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    return context

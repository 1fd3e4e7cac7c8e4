"""Key sources: fetching of an issuer's keys, bounded whatever the issuer or clients do."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from towpath.gateway.admission.key_source import KeySource
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.eventually import eventually
from towpath.testkit.issuer import SigningKey, TokenIssuer, an_issuer


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Fetching:
    """A key source that fetches, and its metrics."""

    def __init__(self, source: KeySource, clock: Clock, telemetry: Telemetry) -> None:
        self.source = source
        self.clock = clock
        self._telemetry = telemetry

    def count(self, result: str) -> int:
        """The fetches with this result."""
        return int(self.metric(f'jwks_fetches_total{{issuer="issuer",result="{result}"}}'))

    def metric(self, name: str) -> float:
        [line] = [
            line for line in self._telemetry.exposition().decode().splitlines() if line.startswith(name)
        ]
        return float(line.rpartition(" ")[2])


@asynccontextmanager
async def fetching(issuer: TokenIssuer, **settings: Any) -> AsyncIterator[Fetching]:
    """A source that fetches from entry to exit."""
    clock = Clock()
    chosen = GatewaySettings(auth_jwks_url=issuer.url, **settings)
    async with Telemetry.open("gateway", chosen) as telemetry:
        source = KeySource("issuer", issuer.url, chosen, telemetry, clock=clock)
        task = asyncio.create_task(source.run())
        try:
            yield Fetching(source, clock, telemetry)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_keys_are_fetched_at_start_and_counted() -> None:
    async with an_issuer() as issuer, fetching(issuer) as fetches:
        await eventually(lambda: fetches.source.find("first"))
        fetches.clock.now += 7
        assert fetches.count("taken") == 1
        assert fetches.metric('jwks_keys{issuer="issuer"}') == 1
        assert fetches.metric('jwks_age_seconds{issuer="issuer"}') == 7


async def test_a_rotated_key_is_taken_with_one_fetch() -> None:
    async with an_issuer() as issuer, fetching(issuer) as fetches:
        await eventually(lambda: fetches.source.has_keys)
        issuer.rotate()
        assert await fetches.source.fetched()
        assert fetches.source.find("first+")
        assert fetches.source.find("first") is None
        assert issuer.fetches == 2


async def test_a_thousand_unknown_keys_cause_one_fetch_in_the_cooldown() -> None:
    async with an_issuer() as issuer, fetching(issuer) as fetches:
        await eventually(lambda: fetches.source.has_keys)
        await asyncio.gather(*(fetches.source.fetched() for _ in range(500)))
        for _ in range(500):
            assert not await fetches.source.fetched()
        assert issuer.fetches == 2
        fetches.clock.now += 10
        assert await fetches.source.fetched()
        assert issuer.fetches == 3


async def test_keys_are_fetched_again_and_again() -> None:
    async with an_issuer() as issuer, fetching(issuer, jwks_refresh=1) as fetches:
        await eventually(lambda: fetches.source.has_keys)
        issuer.rotate()
        await eventually(lambda: fetches.source.find("first+"))


async def test_a_waiting_token_waits_as_long_as_a_fetch_may_take_and_not_longer() -> None:
    async with an_issuer() as issuer, fetching(issuer, jwks_timeout=0.3) as fetches:
        await eventually(lambda: fetches.source.has_keys)
        issuer.delay = 30
        async with asyncio.timeout(10):
            await fetches.source.fetched()
            await eventually(lambda: fetches.count("failed"))
        assert fetches.source.find("first")


def _huge(issuer: TokenIssuer) -> None:
    # Its beginning alone would be a key set.
    issuer.body = json.dumps({"keys": []}).encode() + b" " * 300_000


def _compressed(issuer: TokenIssuer) -> None:
    issuer.body = gzip.compress(json.dumps({"keys": []}).encode())
    issuer.headers = {"Content-Encoding": "gzip"}


def _redirect(issuer: TokenIssuer) -> None:
    issuer.status, issuer.headers = 302, {"Location": "/keys"}


def _failing(issuer: TokenIssuer) -> None:
    issuer.status = 500


def _html(issuer: TokenIssuer) -> None:
    issuer.body = b"<html>maintenance</html>"


def _many(issuer: TokenIssuer) -> None:
    issuer.body = json.dumps({"keys": [issuer.keys[0].jwk] * 101}).encode()


@pytest.mark.parametrize("misbehave", [_huge, _compressed, _redirect, _failing, _html, _many])
async def test_an_answer_that_is_not_a_key_set_changes_nothing(misbehave: Any) -> None:
    async with an_issuer() as issuer, fetching(issuer) as fetches:
        await eventually(lambda: fetches.source.has_keys)
        misbehave(issuer)
        assert await fetches.source.fetched()
        assert fetches.count("refused") == 1
        assert issuer.fetches == 2
        assert fetches.source.find("first")


async def test_an_issuer_that_is_down_at_first_is_asked_again_until_it_answers() -> None:
    async with an_issuer() as issuer:
        issuer.status = 503
        async with fetching(issuer) as fetches:
            await eventually(lambda: issuer.fetches >= 2)
            assert not fetches.source.has_keys
            issuer.status = 200
            await eventually(lambda: fetches.source.has_keys, timeout=20)


async def test_keys_are_used_for_a_while_after_the_last_fetch_and_no_longer() -> None:
    async with an_issuer() as issuer, fetching(issuer, jwks_stale=60) as fetches:
        await eventually(lambda: fetches.source.has_keys)
        fetches.clock.now += 60
        assert fetches.source.find("first")
        fetches.clock.now += 1
        assert fetches.source.find("first") is None
        assert not fetches.source.has_keys


async def test_an_emptied_key_set_withdraws_all_keys() -> None:
    async with an_issuer() as issuer, fetching(issuer) as fetches:
        await eventually(lambda: fetches.source.has_keys)
        issuer.keys = []
        assert await fetches.source.fetched()
        assert not fetches.source.has_keys


async def test_a_stopped_source_leaves_no_token_waiting() -> None:
    async with an_issuer() as issuer:
        issuer.delay = 30
        async with fetching(issuer, jwks_timeout=60) as fetches:
            waiting = asyncio.create_task(fetches.source.fetched())
            await eventually(lambda: issuer.fetches)
        async with asyncio.timeout(5):
            assert await waiting
        assert fetches.source.find("first") is None


async def test_all_keys_of_a_set_are_found_by_their_name() -> None:
    async with an_issuer() as issuer:
        issuer.keys = [SigningKey("a"), SigningKey("b", "EdDSA"), SigningKey("c", "RS256")]
        async with fetching(issuer) as fetches:
            await eventually(lambda: fetches.source.has_keys)
            found = {kid: fetches.source.find(kid) for kid in "abc"}
            assert {kid: key and key.algorithm for kid, key in found.items()} == {
                "a": "ES256",
                "b": "EdDSA",
                "c": "RS256",
            }

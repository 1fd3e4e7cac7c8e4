"""A key source: fetches the key set of one issuer, and keeps it.

Guarantees:

* One task fetches (:meth:`KeySource.run`), one request at a time: at start, every ``jwks_refresh`` seconds, and when
  a token names an unknown key. Tokens cause at most one fetch in ``jwks_cooldown`` seconds, whatever clients send.
* A fetch is bounded in time (``jwks_timeout``) and bytes (``jwks_max_bytes``). Redirects are not followed, and
  nothing is decompressed: an issuer cannot make the gateway ask another host, or fill its memory.
* A fetch that fails changes nothing: the last key set is used for up to ``jwks_stale`` seconds. A fetch that succeeds
  replaces the set, so keys that are no longer in it verify no more tokens.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final, NoReturn

import aiohttp
import structlog
from yarl import URL

from towpath.gateway.admission.key_set import Key, KeySet, KeySetRefused
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Counter, Telemetry

log = structlog.get_logger(__name__)

_HEADERS: Final = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
#: Of a fetch: a new set or the same one; an answer that cannot be used; no answer.
_RESULTS: Final = ("taken", "refused", "failed")
#: Seconds: limits of the wait after a failed fetch. It grows from the first to the last, with full jitter.
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 30.0
#: Seconds. Without it full jitter could ask an issuer that is down several times in a moment.
_SHORTEST_WAIT: Final = 0.2


class KeySource:
    """The keys of one issuer.

    Args:
        name: Of the issuer, for logs and metrics.
        url: Of its key set.
    """

    def __init__(
        self,
        name: str,
        url: str,
        settings: GatewaySettings,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._url = URL(url)
        self._settings = settings
        self._clock = clock
        self._set = KeySet({}, {})
        self._fetched_at = self._caused_at = float("-inf")
        #: Set when a token names an unknown key.
        self._wanted = asyncio.Event()
        #: Done when the fetch in flight, or the next one, has ended.
        self._fetching: asyncio.Future[None] | None = None
        labels = {"issuer": name}
        self._fetches: dict[str, Counter] = {
            result: telemetry.counter("jwks_fetches", "Fetches of key sets", labels | {"result": result})
            for result in _RESULTS
        }
        self._failures = SampledLog("jwks_fetch_failed", Counter())
        telemetry.gauge("jwks_keys", "Usable keys in the key set", lambda: len(self._set.keys), labels)
        telemetry.gauge("jwks_age_seconds", "Seconds since the key set was fetched", self._age, labels)

    @property
    def has_keys(self) -> bool:
        """Whether there are keys that are not too old."""
        return bool(self._set.keys) and self._age() <= self._settings.jwks_stale

    def find(self, kid: str | None) -> Key | None:
        """The key that a token names, if it is known and not too old."""
        return self._set.find(kid) if self.has_keys else None

    def fetch_soon(self) -> "asyncio.Future[None] | None":
        """Fetch because a token names an unknown key.

        Returns a future that is done when the fetch has ended, or ``None`` if another token caused one less than
        ``jwks_cooldown`` seconds ago.
        """
        if self._fetching is None:
            now = self._clock()
            if now - self._caused_at < self._settings.jwks_cooldown:
                return None
            self._caused_at = now
            self._fetching = asyncio.get_running_loop().create_future()
            self._wanted.set()
        return self._fetching

    async def fetched(self) -> bool:
        """Wait for the end of a fetch, see :meth:`fetch_soon`; false at once if there is none, or if it takes too
        long.
        """
        if (fetching := self.fetch_soon()) is None:
            return False
        await asyncio.wait([fetching], timeout=self._settings.jwks_timeout)
        return fetching.done()

    async def run(self) -> NoReturn:
        """Fetch until cancelled."""
        timeout = aiohttp.ClientTimeout(total=self._settings.jwks_timeout)
        failed = 0
        # Between fetches no connection is kept: the issuer would close it, which the next fetch would find out.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=_HEADERS, auto_decompress=False
        ) as http:
            while True:
                failed = 0 if await self._fetch(http) else failed + 1
                await self._rest(self._pause(failed))

    def _pause(self, failed: int) -> float:
        # Jitter: many gateways that started together would ask together.
        if not failed:
            return self._settings.jwks_refresh * random.uniform(0.9, 1.1)  # noqa: S311  # no secret
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(failed - 1, 10))
        return random.uniform(_SHORTEST_WAIT, longest)  # noqa: S311  # no secret

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            pass

    async def _fetch(self, http: aiohttp.ClientSession) -> bool:
        """Fetch once; returns whether the answer was a key set."""
        ended = self._fetching = self._fetching or asyncio.get_running_loop().create_future()
        try:
            found = KeySet.read(await self._download(http))
        except KeySetRefused as error:
            self._failed("refused", str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a timeout is an OSError
            self._failed("failed", describe_error(error, 300))
        else:
            self._take(found)
            return True
        finally:
            # Also if it was cancelled: none of those who wait for it may wait for ever.
            self._fetching = None
            self._wanted.clear()
            ended.set_result(None)
        return False

    async def _download(self, http: aiohttp.ClientSession) -> bytes:
        limit = self._settings.jwks_max_bytes
        async with http.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise KeySetRefused(f"the answer has status {response.status}")
            document = bytearray()
            # One chunk at a time: the length that a header gives is what the issuer says, not what it sends.
            while chunk := await response.content.read(limit + 1 - len(document)):
                document += chunk
                if len(document) > limit:
                    raise KeySetRefused(f"the answer has more than {limit} bytes (TOWPATH_JWKS_MAX_BYTES)")
            return bytes(document)

    def _take(self, found: KeySet) -> None:
        self._fetches["taken"].add()
        self._fetched_at = self._clock()
        if found.keys.keys() != self._set.keys.keys() or found.left_out != self._set.left_out:
            # An empty set is taken as well: the issuer may have withdrawn a key that was stolen.
            report = log.info if found.keys else log.warning
            report("jwks_changed", issuer=self.name, keys=len(found.keys), left_out=dict(found.left_out))
        self._set = found

    def _failed(self, result: str, reason: str) -> None:
        self._fetches[result].add()
        age = round(self._age()) if self._set.keys else None
        self._failures.add(issuer=self.name, reason=reason, keys_age_s=age)

    def _age(self) -> float:
        return self._clock() - self._fetched_at

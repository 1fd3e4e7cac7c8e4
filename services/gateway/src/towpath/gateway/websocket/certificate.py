"""The certificate of ``wss``: read at the start, and again when it is replaced.

Guarantees: connections that open use the newest pair of certificate and key that could be read; open connections are
not affected. A pair that cannot be used (one file replaced and not yet the other, a wrong key) changes nothing: it is
logged and counted, and tried again when a file changes or on SIGHUP. At the start it ends the program.
"""

import asyncio
import os
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import structlog
from cryptography import x509

from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.settings import BadSetting
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.tls import TlsFiles

log = structlog.get_logger(__name__)

_CERTIFICATE: Final = "TOWPATH_TLS_CERTIFICATE"

#: Of each file: time of the last change, size, inode; ``None`` while it cannot be read.
_State = list[tuple[int, int, int] | None]


class Certificate:
    """The certificate of one listener; made with :meth:`of`.

    Attributes:
        context: For the next connection.
    """

    def __init__(self, files: TlsFiles, check: float, telemetry: Telemetry) -> None:
        self._files = files
        self._check = check
        self._asked = asyncio.Event()
        self._state = self._read_state()
        self.context, self._expires = self._load()
        self._reloads = {
            result: telemetry.counter("tls_reloads", "Reloads of the certificate", {"result": result})
            for result in ("ok", "failed")
        }
        telemetry.gauge(
            "tls_certificate_expires_seconds",
            "Seconds until the certificate expires; negative afterwards",
            lambda: self._expires - time.time(),
        )

    @classmethod
    def of(cls, settings: GatewaySettings, telemetry: Telemetry) -> "Certificate | None":
        """The certificate that the settings name; ``None`` for plain ``ws``.

        Raises:
            BadSetting: Only one file is named, or they cannot be used.
        """
        files = TlsFiles("TOWPATH_TLS", certificate=settings.tls_certificate, key=settings.tls_key)
        return cls(files, settings.tls_check, telemetry) if files.named else None

    @contextmanager
    def reloaded_on_sighup(self) -> Iterator[None]:
        """From entry to exit SIGHUP makes :meth:`watch` reload, where it would end the program."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._asked.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def watch(self) -> NoReturn:
        """Reload on SIGHUP and when a file has changed, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._check):
                    await self._asked.wait()
            except TimeoutError:
                if self._read_state() == self._state:
                    continue
            self._asked.clear()
            self._reload()

    def _reload(self) -> None:
        # Before the files are read: if one changes meanwhile, the next check sees it.
        self._state = self._read_state()
        try:
            self.context, self._expires = self._load()
        except BadSetting as error:
            self._reloads["failed"].add(1)
            log.error("certificate_not_reloaded", error=str(error))
        else:
            self._reloads["ok"].add(1)
            log.info("certificate_reloaded", expires_in_s=round(self._expires - time.time()))

    def _load(self) -> tuple[ssl.SSLContext, float]:
        # A new context, not new files in the present one: handshakes that are under way end with what they began.
        context = self._files.server_context()
        expires = _expiry(self._files.certificate or "")
        if expires <= time.time():
            log.warning("certificate_expired", setting=_CERTIFICATE)
        return context, expires

    def _read_state(self) -> _State:
        return [_state_of(path) for path in (self._files.certificate, self._files.key) if path]


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        # Through symbolic links: Kubernetes replaces a secret by changing one.
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _expiry(path: str) -> float:
    """When the certificate in ``path``, the first of its chain, expires."""
    try:
        return x509.load_pem_x509_certificates(Path(path).read_bytes())[0].not_valid_after_utc.timestamp()
    except (OSError, ValueError) as error:
        raise BadSetting(_CERTIFICATE, path, f"cannot be read: {error}") from None

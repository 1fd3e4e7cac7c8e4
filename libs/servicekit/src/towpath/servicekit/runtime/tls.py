"""TLS: contexts for servers and clients, from PEM files that settings name.

Guarantees: no context accepts less than TLS 1.2. A client context verifies the certificate of the other side and the
name in it; there is no setting that turns this off. A file that cannot be used is a :class:`BadSetting` that names
setting and path and shows nothing of its content. No key makes OpenSSL ask for a passphrase on the terminal.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings, ServiceSettings

_LEAST: Final = ssl.TLSVersion.TLSv1_2
_PEM: Final = "-----BEGIN"


class _Encrypted(Exception):
    """The key is encrypted."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of one peer.

    Attributes:
        prefix: The common beginning of the settings that name the files, such as ``TOWPATH_AMQP``.
        ca: Certificate authorities that the other side's certificate must come from; ``None`` for the system's.
        certificate, key: One's own certificate, with its chain, and its key.
    """

    prefix: str
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def of_database(cls, settings: ServiceSettings) -> "TlsFiles":
        """The files for PostgreSQL."""
        return cls(
            "TOWPATH_DATABASE", settings.database_ca, settings.database_certificate, settings.database_key
        )

    @classmethod
    def of_broker(cls, settings: BrokerSettings) -> "TlsFiles":
        """The files for RabbitMQ."""
        return cls("TOWPATH_AMQP", settings.amqp_ca, settings.amqp_certificate, settings.amqp_key)

    @property
    def named(self) -> str | None:
        """The first setting that names a file; ``None`` if none does."""
        files = {"CA": self.ca, "CERTIFICATE": self.certificate, "KEY": self.key}
        return next((f"{self.prefix}_{what}" for what, path in files.items() if path), None)

    def server_context(self) -> ssl.SSLContext:
        """A new context for connections to us.

        Raises:
            BadSetting
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = _LEAST
        self._load_own(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """A new context for connections to others; reads the files again, so a replaced file takes effect.

        Raises:
            BadSetting
        """
        if self.ca is not None:
            _check(f"{self.prefix}_CA", self.ca)
        try:
            # Verifies certificate and host name: https://docs.python.org/3/library/ssl.html#ssl.create_default_context
            context = ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError:
            raise BadSetting(f"{self.prefix}_CA", self.ca, "holds no certificate in PEM form") from None
        context.minimum_version = _LEAST
        if self.certificate is not None or self.key is not None:
            self._load_own(context)
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        certificate, key = f"{self.prefix}_CERTIFICATE", f"{self.prefix}_KEY"
        if self.certificate is None:
            raise BadSetting(certificate, None, f"is required with {key}")
        if self.key is None:
            raise BadSetting(key, None, f"is required with {certificate}")
        _check(certificate, self.certificate)
        _check(key, self.key)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_passphrase)
        except _Encrypted:
            raise BadSetting(
                key, self.key, "is encrypted; store it without a passphrase, readable by this program only"
            ) from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise BadSetting(key, self.key, f"is not the key of {self.certificate}") from None
            # OpenSSL does not say which of the two files it could not read.
            if not _holds_certificate(self.certificate):
                raise BadSetting(certificate, self.certificate, "holds no certificate in PEM form") from None
            raise BadSetting(
                key, self.key, f"cannot be used with {self.certificate}: {_reason(error)}"
            ) from None


def _check(name: str, path: str) -> None:
    """Raise the error of a file that cannot be read: the ``ssl`` module's own does not name it."""
    if _PEM in path or "\n" in path:
        raise BadSetting(name, None, "must be the path of a PEM file, not its content")
    try:
        if not Path(path).is_file():  # OpenSSL would read a device to its end.
            raise BadSetting(name, path, "is not a file")
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise BadSetting(name, path, f"cannot be read: {error.strerror}") from None


def _no_passphrase() -> str:
    # Without a callback OpenSSL would ask on the terminal, and wait.
    raise _Encrypted


def _holds_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True


def _reason(error: ssl.SSLError) -> str:
    return error.reason or "it is not a key in PEM form"

"""TLS to RabbitMQ and PostgreSQL: the certificate and the name of the other side are always verified.

No setting turns that off, and nothing below TLS 1.2 is accepted.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files.

    Attributes:
        ca: The authorities that the other side's certificate must come from; ``None`` for the system's.
        certificate, key: One's own certificate with its chain, and its key, without a passphrase.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    @property
    def any(self) -> bool:
        """Whether a file is named."""
        return bool(self.ca or self.certificate or self.key)

    def context(self) -> ssl.SSLContext:
        """A new context; it reads the files again, so a replaced file takes effect with the next connection.

        Raises:
            ValueError: A file cannot be used; the text names it and shows nothing of its content.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate needs its key, and a key its certificate: name both files")
        for path in filter(None, (self.ca, self.certificate, self.key)):
            if not Path(path).is_file():
                raise ValueError(f"{path[:200]!r} is not a file")
        try:
            # https://docs.python.org/3/library/ssl.html#ssl.create_default_context
            context = ssl.create_default_context(cafile=self.ca)
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"{self.ca!r} holds no certificate in PEM form: {_reason(error)}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None and self.key is not None:
            try:
                # Without a password OpenSSL would ask on the terminal, and wait.
                context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            except (ssl.SSLError, OSError) as error:
                raise ValueError(
                    f"{self.certificate!r} cannot be used with {self.key!r}: {_reason(error)}"
                ) from None
        return context


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or "not in PEM form")

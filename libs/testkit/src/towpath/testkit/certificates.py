"""Certificates for a test: an authority of its own, and what it issues, as PEM files in the test's folder."""

import itertools
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key: the paths of two files."""

    certificate: str
    key: str


class Authority:
    """A certificate authority that only its test trusts.

    Attributes:
        ca: The path of its own certificate.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self._name = name
        self._numbers = itertools.count(1)
        ca = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(ca)
        self.ca = str(ca)

    def issue(self, *names: str, not_after: datetime | None = None) -> Issued:
        """A new certificate for ``names`` (hosts or addresses)."""
        leaf = self._authority.issue_cert(*names, not_after=not_after)
        path = self._folder / f"{self._name}-{next(self._numbers)}"
        certificate, key = path.with_suffix(".pem"), path.with_suffix(".key")
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(key)
        return Issued(str(certificate), str(key))

"""The folder that ``towpath dev`` keeps from one run to the next: secrets, databases, logs, what the broker keeps.

Guarantees:

* One ``towpath dev`` a folder: the folder is held by a lock that ends with its process.
* Only the owner may read it, for it holds a secret, an API key and a broker's password.
* ``dev.json`` in it announces a running ``towpath dev`` to other commands; a file left by a killed run is ignored.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from towpath.tools.trouble import Trouble


class FolderUnusable(Trouble):
    """The folder cannot be made or written to."""

    status = 2


class AlreadyRunning(Trouble):
    """Another ``towpath dev`` runs in this folder."""


@dataclass(frozen=True, slots=True)
class RunningDev:
    """Data of a running ``towpath dev`` for other commands.

    Attributes:
        pid: Its process.
        page: Address of the page.
        gateway: Address of the gateway's WebSocket.
        ingress: Address of the ingress, for other backends by HTTP.
        amqp_url: The broker, with its password; ``None`` when it lives inside that process.
        parts: Process ids of the parts that are processes of their own.
        admin: Where each part's health and metrics are.
    """

    pid: int
    page: str
    gateway: str
    ingress: str
    amqp_url: str | None
    parts: Mapping[str, int]
    admin: Mapping[str, str]


class DataFolder:
    """See the module.

    Args:
        path: Where it is; made on first use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def __str__(self) -> str:
        """The path as a person in the current folder would write it."""
        with contextlib.suppress(ValueError, OSError):
            return str(self.path.relative_to(Path.cwd()))
        return str(self.path)

    @property
    def rabbitmq(self) -> Path:
        """Where a private RabbitMQ keeps its data."""
        return self.path / "rabbitmq"

    @property
    def logs(self) -> Path:
        """Where the programs of the last run logged to."""
        return self.path / "logs"

    def log_of(self, name: str) -> Path:
        """The log of one program."""
        return self.logs / f"{name}.log"

    def database_url(self, service: str) -> str:
        """The SQLAlchemy URL of a service's SQLite database."""
        return f"sqlite+aiosqlite:///{self.path / service}.db"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder if it is not there, and keep others out.

        Raises:
            FolderUnusable, AlreadyRunning
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            lock = self._lock()
        except OSError as error:
            raise FolderUnusable(
                f"--data {self}: cannot be used as a folder: {error.strerror}; name another one"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(
                    f"--data {self}: another `towpath dev`{self._whose()} runs in this folder; "
                    "stop it, or use another folder"
                ) from None
            try:
                yield
            finally:
                self._dev.unlink(missing_ok=True)

    def secret(self) -> str:
        """The secret that signs tokens here; made once, 256 random bits."""
        if (secret := self.known_secret()) is None:
            secret = secrets.token_urlsafe(32)
            self._write(self._secret, secret)
        return secret

    def known_secret(self) -> str | None:
        """The secret, or ``None`` when there is none yet."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return self._secret.read_text().strip() or None
        return None

    def kept(self, name: str) -> str | None:
        """The text that :meth:`keep` has written under this name, in this run or an earlier one."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return (self.path / name).read_text().strip() or None
        return None

    def keep(self, name: str, text: str) -> None:
        """Write ``text`` for the next run; only the owner may read it."""
        self._write(self.path / name, text)

    def tell(self, running: RunningDev) -> None:
        """Announce to other commands that ``towpath dev`` runs; removed when the folder is released."""
        self._write(self._dev, json.dumps(asdict(running), indent=2) + "\n")

    def running(self) -> RunningDev | None:
        """The ``towpath dev`` that runs in this folder, or ``None``."""
        try:
            told = RunningDev(**json.loads(self._dev.read_text()))
            with self._lock() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return told
        except (OSError, ValueError, TypeError):
            return None
        return None

    @property
    def _secret(self) -> Path:
        return self.path / "secret"

    @property
    def _dev(self) -> Path:
        return self.path / "dev.json"

    def _lock(self) -> IO[bytes]:
        return (self.path / "lock").open("ab")

    def _whose(self) -> str:
        running = self.running()
        return f" (process {running.pid})" if running else ""

    def _write(self, path: Path, text: str) -> None:
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
            file.write(text)
        new.replace(path)

"""The databases that services store in, and their processes."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from towpath.testkit import postgres
from towpath.testkit.postgres import Postgres


@dataclass(frozen=True)
class Database:
    """An empty database for one measurement.

    Attributes:
        url: Its SQLAlchemy URL; ``None`` for SQLite, which is a file of the service's own.
        pid: The server's first process, if it is one of this machine.
    """

    url: str | None = None
    pid: int | None = None

    @property
    def pids(self) -> list[int]:
        """The server's processes as of now: one a connection, and some."""
        return [] if self.pid is None else [self.pid, *_children(self.pid)]


class Databases:
    """Starts PostgreSQL when it is needed first; it ends on exit."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._server: Postgres | None = None

    def __enter__(self) -> "Databases":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.asynccontextmanager
    async def fresh(self, *, with_postgres: bool) -> AsyncIterator[Database]:
        """An empty database."""
        if not with_postgres:
            yield Database()
            return
        if self._server is None:
            self._server = self._stack.enter_context(postgres.running())
        async with self._server.database() as url:
            yield Database(url, _first_process(self._server))


def _first_process(server: Postgres) -> int | None:
    file = Path(server.host) / "data/postmaster.pid"
    return int(file.read_text().splitlines()[0]) if file.is_absolute() and file.exists() else None


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found

"""A real PostgreSQL for a test: a database of its own on a private server.

Guarantees:

* Each test has a fresh database, and it is dropped when the test is over.
* The server listens on a socket in a folder that only its user may enter, with TLS on a port of 127.0.0.1 instead;
  it and its files end with us, also when this process is killed.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from towpath.testkit.certificates import Issued
from towpath.testkit.containers import docker_answers
from towpath.testkit.processes import free_port
from towpath.tools.packages import POSTGRESQL, find_or_install

_IMAGE: Final = "postgres:17"
_PORT: Final = 5432
_USER: Final = "postgres"
_START_SECONDS: Final = 60.0

# Data of tests need not outlive a power cut.
_SETTINGS: Final = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=200",
    "lc_messages=C",  # its start is seen in its log
)

#: Over TCP only with TLS; the user CERTIFIED needs a certificate of the authority as well.
_HBA: Final = """\
local all all trust
hostssl all certified 127.0.0.1/32 trust clientcert=verify-ca
hostssl all all 127.0.0.1/32 trust
"""
CERTIFIED: Final = "certified"

# The server ends when our end of the pipe does, and takes its folder along.
_KEEPER: Final = """
"$1" -D "$2/data" -k "$2" -h "" $3 >"$2/log" 2>&1 &
cat >/dev/null
kill -QUIT $!
wait
rm -rf "$2"
"""


class PostgresFailed(Exception):
    """PostgreSQL did not start. The message ends with what it said."""


@dataclass(frozen=True)
class Postgres:
    """A running server.

    Attributes:
        host: Its address, or the folder of its socket.
        port: Its port (also part of a socket's name).
        password: Of the user ``postgres``; empty when none is asked for.
    """

    host: str
    port: int = _PORT
    password: str = ""

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database, for asyncpg."""
        if self.host.startswith("/"):
            return f"postgresql+asyncpg://{_USER}@/{database}?host={self.host}"
        return f"postgresql+asyncpg://{_USER}:{self.password}@{self.host}:{self.port}/{database}"

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """The URL of a fresh database, dropped afterwards."""
        name = f"test_{secrets.token_hex(4)}"
        await self._execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        engine = create_async_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                await connection.execute(text(statement))
        finally:
            await engine.dispose()


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A PostgreSQL of our own: in a container where Docker runs, else the machine's program.

    Raises:
        ProgramMissing: Neither is to be had.
        PostgresFailed: It did not start.
    """
    with _in_container() if docker_answers() else _on_this_machine() as server:
        yield server


@contextlib.contextmanager
def running_with_tls(issued: Issued, ca: str) -> Iterator[Postgres]:
    """A PostgreSQL on ``localhost`` that serves TLS with this certificate; clients' certificates are of ``ca``.

    Raises:
        ProgramMissing, PostgresFailed: See :func:`running`.
    """
    with _on_this_machine(_Tls(issued, ca)) as server:
        yield server


@dataclass(frozen=True)
class _Tls:
    own: Issued
    ca: str

    def settings(self, folder: Path, user: str | None) -> list[str]:
        """Copies the files to where the server may read them; returns its settings."""
        names = {"ssl_cert_file": self.own.certificate, "ssl_key_file": self.own.key, "ssl_ca_file": self.ca}
        for name, path in names.items():
            copy = folder / name
            shutil.copy(path, copy)
            copy.chmod(0o600)  # PostgreSQL refuses a key that others can read.
            if user is not None:
                shutil.chown(copy, user)
        (folder / "data" / "pg_hba.conf").write_text(_HBA)
        return ["ssl=on", "listen_addresses=127.0.0.1", *(f"{name}={folder / name}" for name in names)]


@contextlib.contextmanager
def _on_this_machine(tls: _Tls | None = None) -> Iterator[Postgres]:
    postgres = find_or_install(POSTGRESQL)
    # PostgreSQL refuses to run as root; Debian's package brings this user.
    user = _USER if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="towpath-pg-", dir="/tmp"))  # a socket's path is 107 bytes at most
    if user is not None:
        shutil.chown(folder, user)
    try:
        _initialise(postgres.with_name("initdb"), folder, user)
        port = _PORT if tls is None else free_port()
        chosen = [*_SETTINGS, f"port={port}", *(tls.settings(folder, user) if tls is not None else ())]
        settings = " ".join(f"-c {setting}" for setting in chosen)
        keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "sh", postgres, folder, settings],
            cwd=folder,
            user=user,
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends the tests first, then the server
        )
        try:
            _await_start(folder)
            yield Postgres(str(folder)) if tls is None else Postgres("localhost", port)
        finally:
            keeper.communicate()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _initialise(initdb: Path, folder: Path, user: str | None) -> None:
    made = subprocess.run(
        [
            initdb,
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
            f"--username={_USER}",
            "-D",
            folder / "data",
        ],
        cwd=folder,
        user=user,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise PostgresFailed(f"initdb ended with status {made.returncode}.\n{made.stdout}{made.stderr}")


def _await_start(folder: Path) -> None:
    # Its socket is there before that, and refuses with "the database system is starting up".
    deadline = time.monotonic() + _START_SECONDS
    while True:
        log = (folder / "log").read_text(errors="replace") if (folder / "log").exists() else ""
        if "ready to accept connections" in log:
            return
        if "FATAL" in log or time.monotonic() > deadline:
            raise PostgresFailed(f"PostgreSQL does not accept connections.\n{log}")
        time.sleep(0.02)


@contextlib.contextmanager
def _in_container() -> Iterator[Postgres]:
    from testcontainers.community.postgres import PostgresContainer

    password = secrets.token_urlsafe(18)
    with PostgresContainer(_IMAGE, username=_USER, password=password, dbname="postgres") as container:
        yield Postgres(container.get_container_host_ip(), container.get_exposed_port(_PORT), password)

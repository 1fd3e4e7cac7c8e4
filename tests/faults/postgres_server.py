"""A PostgreSQL of one test, on a TCP port, to be killed and started again."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from towpath.testkit.processes import free_port
from towpath.tools.packages import POSTGRESQL, find_or_install

_USER: Final = "postgres"
_START_SECONDS: Final = 30.0


class PostgresServer:
    """One server, with its data in a folder of its own; commits are on disk before they are answered.

    Attributes:
        port: On 127.0.0.1; the same after each start.
    """

    def __init__(self, folder: Path, program: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._program = program
        # PostgreSQL refuses to run as root; Debian's package brings this user.
        self._user = _USER if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator["PostgresServer"]:
        """From entry to exit, when its files are removed."""
        program = find_or_install(POSTGRESQL)
        folder = Path(tempfile.mkdtemp(prefix="towpath-pg-", dir="/tmp"))
        server = cls(folder, program)
        try:
            if server._user is not None:
                shutil.chown(folder, server._user)
            server._run(
                "initdb", "--auth=trust", "--encoding=UTF8", "--username=postgres", "-D", folder / "data"
            )
            server.start()
            yield server
        finally:
            server.kill()
            shutil.rmtree(folder, ignore_errors=True)

    def create(self, database: str) -> str:
        """Make a database; returns the URL for services."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, database)
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program, "-D", self._folder / "data", "-k", "", "-h", "127.0.0.1",
                    "-p", str(self.port), "-c", "max_connections=50",
                ],
                cwd=self._folder, user=self._user, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._run("psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, "-c", "SELECT 1")
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        """End it with all its processes at once (SIGKILL)."""
        if self._process is not None:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            pids = [self._process.pid, *map(int, children.read_text().split())] if children.exists() else []
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
            self._process = None

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [self._program.with_name(program), *arguments],
            cwd=self._folder, user=self._user, check=True, capture_output=True, timeout=60,
        )  # fmt: skip

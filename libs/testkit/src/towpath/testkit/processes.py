"""Towpath's programs as processes of a test: started, waited for, killed.

Guarantees:

* A program is running and ready when :meth:`Processes.start` returns; if not, the error holds what it printed.
* Every process ends with the test, and also when the test run itself is killed.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from towpath.testkit.eventually import eventually
from towpath.testkit.ports import first_of_free_ports, status_of
from towpath.testkit.ports import free_port as free_port  # tests of processes need both
from towpath.testkit.rights import Rights
from towpath.tools.packages import RABBITMQ


class Process:
    """A running program.

    Attributes:
        name: Its name in reports.
        settings: The environment variables it was given.
    """

    def __init__(self, name: str, command: list[str], settings: Mapping[str, str]) -> None:
        self.name = name
        self.settings = dict(settings)
        # A file, for a pipe without a reader would stop the program.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process is
        inherited = {name: value for name, value in os.environ.items() if _is_inherited(name)}
        self._process = subprocess.Popen(
            [*_ending_with_us(), *command],
            env=inherited | self.settings,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; ``None`` while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """Its output so far, standard output and error together."""
        return os.pread(self._output.fileno(), 2**24, 0).decode("utf-8", "replace")

    @property
    def admin_url(self) -> str:
        """Where its health and metrics are."""
        return f"http://127.0.0.1:{self.settings['TOWPATH_ADMIN_PORT']}"

    async def ready(self, *, timeout: float = 30.0) -> None:
        """Wait until ``/health/ready`` answers 200.

        Raises:
            AssertionError: It ended, or is not ready after ``timeout`` seconds; with what it printed.
        """
        try:
            await eventually(self._is_ready, timeout=timeout)
        except AssertionError:
            raise AssertionError(
                f"{self.name} is not ready after {timeout:g} s. It printed:\n{self.output}"
            ) from None
        if self.status is not None:
            raise AssertionError(f"{self.name} ended with status {self.status}. It printed:\n{self.output}")

    async def ended(self, *, timeout: float = 30.0) -> int:
        """Wait for its end and return the exit status, negative for a signal.

        Raises:
            AssertionError: It still runs after ``timeout`` seconds; with what it printed.
        """
        try:
            await eventually(lambda: self.status is not None, timeout=timeout)
        except AssertionError:
            raise AssertionError(
                f"{self.name} still runs after {timeout:g} s. It printed:\n{self.output}"
            ) from None
        return self._process.returncode

    async def terminate(self, *, timeout: float = 30.0) -> int:
        """Ask it to drain and end (SIGTERM); returns the exit status."""
        self._process.terminate()
        return await self.ended(timeout=timeout)

    async def kill(self) -> None:
        """End it without a chance to say goodbye (SIGKILL)."""
        self._process.kill()
        await self.ended(timeout=30.0)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its sockets stay open and nothing is read."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._output.close()

    async def _is_ready(self) -> bool:
        if self.status is not None:
            return True
        return await status_of(int(self.settings["TOWPATH_ADMIN_PORT"]), "/health/ready") == 200


class Processes:
    """The processes of one test, in the order they were started.

    Args:
        rights: The accounts under which programs log in to RabbitMQ; by default the test's own.
    """

    def __init__(self, rights: Rights | None = None) -> None:
        self._rights = rights
        self._all: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._all):
            process.close()

    def __iter__(self) -> Iterator[Process]:
        return iter(self._all)

    async def start(
        self,
        program: str,
        *arguments: str,
        name: str | None = None,
        timeout: float = 30.0,
        **settings: object,
    ) -> Process:
        """Start a program and wait until it is ready.

        Args:
            program: A command of this environment, e.g. ``towpath-gateway``.
            arguments: Of the command.
            name: The name in reports; by default the program.
            timeout: Seconds until it must be ready.
            settings: Settings without their prefix: ``port=8080`` is ``TOWPATH_PORT=8080``. A free
                ``admin_port`` is chosen when none is given, and a row of them for ``towpath dev``.
        """
        process = self.launch(program, *arguments, name=name, **settings)
        await process.ready(timeout=timeout)
        return process

    def launch(self, program: str, *arguments: str, name: str | None = None, **settings: object) -> Process:
        """Start a program without waiting for it; see :meth:`start`."""
        environment = {f"TOWPATH_{setting.upper()}": str(value) for setting, value in settings.items()}
        if (program, *arguments[:1]) == ("towpath", "dev"):
            environment.setdefault("TOWPATH_INGRESS_PORT", str(free_port()))
            environment.setdefault("TOWPATH_ADMIN_PORT", str(first_of_free_ports()))
        environment.setdefault("TOWPATH_ADMIN_PORT", str(free_port()))
        if self._rights is not None:
            environment = self._rights.environment(program, arguments, environment)
        process = Process(name or program, [_path(program), *arguments], environment)
        self._all.append(process)
        return process


def _is_inherited(variable: str) -> bool:
    # A test's settings are its own. Which RabbitMQ is started is none: one choice holds for the whole run.
    return not variable.startswith("TOWPATH_") or variable == RABBITMQ.variable


def _path(program: str) -> str:
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.exists() else program


def _ending_with_us() -> list[str]:
    # A killed test run cannot end its processes; on Linux the kernel does it.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []

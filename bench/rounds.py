"""Rounds: every system in turn, so that whatever the machine does meanwhile happens to all of them.

Guarantees: each system starts afresh, on an empty virtual host and database, for each work of each round; the order
of systems is rotated from round to round; whatever fails in a measurement is reported there, and the rest goes on.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from bench.databases import Database, Databases
from bench.measurement import Measurement
from bench.stage import Stage
from bench.systems.interface import Running, Setup, System
from bench.works.interface import Case, Scale, Work
from towpath.testkit.processes import Processes
from towpath.tools.rabbitmq_node import RabbitNode

_REASON_LETTERS: Final = 200

#: Round, work, case, system, share done (0–1) → nothing.
Progress = Callable[[int, Work, Case, System, float], None]


class Rounds:
    """Measures every case of every work on every system that can do it.

    Args:
        progress: Called with the progress of each measurement.
    """

    def __init__(self, broker: RabbitNode, databases: Databases, scale: Scale, progress: Progress) -> None:
        self._broker = broker
        self._databases = databases
        self._scale = scale
        self._progress = progress

    async def run(self, works: Sequence[Work], systems: Sequence[System], rounds: int) -> list[Measurement]:
        """All of it, ``rounds`` times."""
        measured = []
        for number in range(rounds):
            for work in [work for work in works if number < work.rounds(rounds)]:
                able = self._scale.systems(work, systems, number)
                start = number % max(len(able), 1)
                for system in [*able[start:], *able[:start]]:
                    # Systems with the same start are started once.
                    for _, cases in groupby(
                        work.cases(self._scale), lambda case: (case.gateways, case.postgres)
                    ):
                        measured += await self._measure(work, list(cases), system, number)
        return measured

    async def _measure(
        self, work: Work, cases: Sequence[Case], system: System, number: int
    ) -> list[Measurement]:
        vhost = f"bench-{number}-{work.name}-{system.name}"
        folder = Path(tempfile.mkdtemp(prefix="towpath-bench-"))
        measured: list[Measurement] = []
        try:
            url = await self._broker.add_vhost(vhost)
            async with self._databases.fresh(with_postgres=cases[0].postgres) as database:
                with Processes() as processes:
                    setup = Setup(
                        self._broker,
                        url,
                        vhost,
                        folder,
                        processes,
                        gateways=cases[0].gateways,
                        workload=work.needs or work.name,
                        database=database.url,
                    )
                    async with system.start(setup) as running:
                        for case in cases:
                            stage = self._stage(system, work, case, number, vhost, running, database)
                            measured.append(await self._measure_case(stage, work, case, number))
        except Exception as error:
            for case in cases[len(measured) :]:
                failed = Measurement(work.name, case.name, system.name, number, failure=_reason(error))
                measured.append(failed)
                self._progress(number, work, case, system, 1.0)
        finally:
            await self._broker.delete_vhost(vhost)
            shutil.rmtree(folder, ignore_errors=True)
        return measured

    def _stage(
        self,
        system: System,
        work: Work,
        case: Case,
        number: int,
        vhost: str,
        running: Running,
        database: Database,
    ) -> Stage:
        broker_pid = int(self._broker.evaluate("os:getpid()").strip('"'))
        return Stage(
            system,
            running,
            others=lambda: {"database": database.pids, "broker": [broker_pid]},
            amqp_url=self._broker.url(vhost),
            progress=lambda share: self._progress(number, work, case, system, share),
        )

    async def _measure_case(self, stage: Stage, work: Work, case: Case, number: int) -> Measurement:
        stage.progress(0.0)
        try:
            fields = await work.measure(stage, case, self._scale)
        except Exception as error:
            fields = {"failure": _reason(error)}
        stage.progress(1.0)
        return Measurement(work.name, case.name, stage.system.name, number, **fields)


def _reason(error: BaseException) -> str:
    """The first line of an error, and the last output of a program."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    first, last = lines[0].removesuffix(" It printed:"), lines[-1].strip()
    return (first if len(lines) == 1 else f"{first} {last}")[:_REASON_LETTERS]

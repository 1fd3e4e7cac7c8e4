"""Parts of ``towpath dev`` that end when they should not."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from towpath.servicekit.runtime.settings import BrokerSettings
from towpath.testkit.processes import free_port
from towpath.tools.brokers import MemoryBroker
from towpath.tools.parts import PartEnded, Parts, ProcessPart, Program


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> "asyncio.Runner":
    return asyncio.Runner(loop_factory=request.param)


def test_a_part_that_ended_early_is_reported_with_its_last_line(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    program = Program("fishing", "towpath.fishing", BrokerSettings)

    async def run() -> None:
        part = await ProcessPart.launch(program, BrokerSettings(admin_port=free_port()), tmp_path / "log")
        parts = Parts([part])
        await part.until_ended()
        async with MemoryBroker().open() as broker:
            await parts.begin(broker)
            await parts.until_one_ends()

    with runner, pytest.raises(PartEnded) as ended:
        runner.run(run())
    assert str(ended.value) == (
        "fishing ended with status 1: ModuleNotFoundError: No module named 'towpath.fishing'"
    )
    assert ended.value.status == 1


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        ("", "it said nothing"),
        ("one\ntwo\n", "two"),
        ('{"event": "serving", "level": "info"}\n', "serving"),
        ('{"event": "crashed", "exception": "Traceback …\\n  in x\\nKeyError: 1"}\n', "crashed: KeyError: 1"),
    ],
)
async def test_the_last_line_is_shown_without_formatting(logged: str, said: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    part = await ProcessPart.launch(
        Program("chat", "towpath.chat", BrokerSettings), BrokerSettings(admin_port=free_port()), log
    )
    log.write_text(logged)
    part.kill()
    assert str(await part.until_ended()) == f"chat was ended by signal 9: {said}"

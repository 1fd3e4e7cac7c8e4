"""``python -m bench.generator``: runs one script, named on the first line of standard input with what it is given."""

import asyncio
import gc
import json

import uvloop

from bench.generator.control import Control, lines_of_stdin
from bench.generator.scripts import script


async def main() -> None:
    """Read what to do, do it, and say what came out."""
    lines = await lines_of_stdin()
    wanted = json.loads(await lines.readline())
    control = Control(lines)
    run = script(wanted.pop("script"))
    gc.disable()  # objects made here live to the end; a collection would only make pauses
    try:
        control.result(await run(control, **wanted))
    except Exception as error:
        control.failure(_reason(error))


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

"""People who connect while a gateway is attacked: ``python -m tests.abuse.newcomers '{…}'``; one each half second."""

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

from towpath.testkit.tokens import a_token

from .wire import Refused, Wire


async def _main(plan: dict[str, Any]) -> None:
    waits: list[float] = []
    failed = Counter[str]()

    async def come(number: int) -> None:
        began = time.monotonic()
        try:
            wire = await Wire.open(
                plan["port"], a_token(f"new{number}"), source=f"127.0.4.{number % 250 + 1}"
            )
            await wire.until("session.welcome")
        except (OSError, TimeoutError, EOFError, Refused) as error:
            failed[repr(error)] += 1
        else:
            waits.append(time.monotonic() - began)
            wire.abort()

    print("ready", flush=True)  # noqa: T201  # the parent reads it
    await asyncio.to_thread(sys.stdin.readline)
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(plan["seconds"] * 2)):
            tasks.create_task(come(number))
            await asyncio.sleep(0.5)
    print(json.dumps({"waits": waits, "failed": failed}), flush=True)  # noqa: T201  # the parent reads it


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))

"""An older backup of a service's database is restored, as docs/operations/production.md says."""

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any, Final

from towpath.testkit.client import WireClient
from towpath.testkit.system import System

PAGE: Final = Path(__file__).parents[2] / "docs/operations/production.md"


def the_statement(service: str) -> str:
    """The page's statement that moves the streams of chat on, for another service."""
    (statement,) = re.findall(r"UPDATE chat_streams SET .*;", PAGE.read_text())
    return str(statement).replace("chat", service)


def back_up(database: Path, backup: Path) -> None:
    """As SQLite's `.backup` does, while the service runs."""
    with (
        contextlib.closing(sqlite3.connect(database)) as source,
        contextlib.closing(sqlite3.connect(backup)) as copy,
    ):
        source.backup(copy)


def restore(backup: Path, database: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        Path(f"{database}{ending}").unlink(missing_ok=True)
    backup.rename(database)
    with contextlib.closing(sqlite3.connect(database)) as restored, restored:
        restored.execute(the_statement("orders"))


async def submit(client: WireClient, order: str, msg_id: str) -> dict[str, Any]:
    answer = await client.request("order.submit", {"order_id": order, "amount": "9.00"}, msg_id=msg_id)
    assert answer["action"] == "order.submit.ok"
    return answer


async def resumed(client: WireClient, seq: int) -> dict[str, Any]:
    answer = await client.request("order.resume", {"positions": {"order:ana": seq}})
    stream: dict[str, Any] = answer["data"]["streams"]["order:ana"]
    return stream


async def orders_of(client: WireClient) -> list[str]:
    answer = await client.request("order.list")
    return sorted(order["order_id"] for order in answer["data"]["orders"])


async def test_a_client_loads_the_state_again_after_an_older_database_was_restored(
    system: System, tmp_path: Path
) -> None:
    database, backup = tmp_path / "orders.db", tmp_path / "backup.db"
    async with system.connect("ana") as ana:
        await submit(ana, "O1", "m-1")
        back_up(database, backup)
        await submit(ana, "O2", "m-2")
        seen = (await ana.find(lambda f: "stream" in f and f["data"]["order_id"] == "O2"))["seq"]
        assert (await resumed(ana, seen))["complete"] is True

        assert await system.orders.terminate() == 0
        restore(backup, database)
        system.orders = system.launch_service("orders")
        await system.orders.ready()

        # No position of before is taken for one of now: not the newest that a client may have, nor an older one.
        for position in (seen, 1):
            stream = await resumed(ana, position)
            assert stream["complete"] is False
            assert stream["seq"] > seen + 1
    # Another connection: a gateway drops an answer that a connection has had.
    async with system.connect("ana") as ana:
        # The order of the meantime is lost, and so is its outcome: the same request takes effect again.
        assert await orders_of(ana) == ["O1"]
        assert (await submit(ana, "O2", "m-2"))["data"]["revision"] == 1
        # The outcome of a request of before the backup is still known.
        assert (await submit(ana, "O1", "m-1"))["data"]["revision"] == 1
        assert await orders_of(ana) == ["O1", "O2"]
        pushed = await ana.find(lambda f: "stream" in f and f["data"]["order_id"] == "O2")
        assert pushed["seq"] == stream["seq"] + 1

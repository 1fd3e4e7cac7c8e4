"""Notifications as programs: from a user's order and a direct message to the app and the mail, through a crash."""

import os
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from towpath.testkit.eventually import eventually
from towpath.testkit.postbox import Postbox
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System


def rows(database: Path, statement: str) -> list[Any]:
    with sqlite3.connect(database, timeout=30) as connection:
        return connection.execute(statement).fetchall()


def kill(programs: Sequence[Process]) -> None:
    for program in programs:
        os.kill(program.pid, signal.SIGKILL)


async def test_a_person_is_notified_in_the_app_and_by_mail_through_a_crash(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    system = System(rabbitmq, processes, tmp_path)
    database = tmp_path / "notifications.db"
    async with Postbox.open() as box:
        mails: dict[str, object] = {
            "smtp_host": "127.0.0.1",
            "smtp_port": box.port,
            "smtp_tls": "none",
            "smtp_from": "news@shop.example",
            "mail_window": 0.5,
            "gateway_silence": 2.0,
        }

        def a_replica() -> Process:
            return system.launch_service("notifications", **mails)

        await system.start(gateways=1)
        replicas = [a_replica(), a_replica()]
        for replica in replicas:
            await replica.ready(timeout=60)

        async with system.connect("ana") as ana:
            await ana.request(
                "notification.preferences", {"email": "ana@example.com", "kinds": ["chat.direct"]}
            )
            await ana.request("order.submit", {"order_id": "O-1", "amount": 9.9})
            push = await ana.next("notification.new")
            assert (push["stream"], push["seq"], push["data"]["kind"]) == (
                "notification:ana",
                1,
                "order.created",
            )

        # She is offline now. A server accepts the mail, and at that moment all replicas are killed.
        box.on_accept = lambda: kill(replicas)
        async with system.connect("ben") as ben:
            assert (await ben.request("chat.direct", {"to": "ana", "text": "secret"}))[
                "action"
            ] == "chat.direct.ok"
        await eventually(lambda: box.mails)
        for replica in replicas:
            assert await replica.ended() == -signal.SIGKILL
        box.on_accept = lambda: None

        # As if the lease of the dead replica had ended; another one makes the call again.
        (attempts,) = rows(database, "UPDATE notifications_effects SET due_at = 0 RETURNING attempts")
        assert attempts == (1,)
        replicas = [a_replica()]
        await replicas[0].ready(timeout=60)
        await eventually(lambda: rows(database, "SELECT state FROM notifications_effects") == [("done",)])
        first, second = box.mails
        assert first["Message-ID"] == second["Message-ID"], "doubled once, and recognisable"
        assert [mail["Subject"] for mail in box.mails] == ["ben wrote to you"] * 2
        assert b"secret" not in b"".join(bytes(mail) for mail in box.mails)

        async with system.connect("ana") as ana:
            page = (await ana.request("notification.list"))["data"]
            assert [one["kind"] for one in page["notifications"]] == ["chat.direct", "order.created"]
            assert (page["seq"], page["unread"]) == (2, 2)
            read = await ana.request("notification.read", {"up_to": 2})
            assert read["data"] == {"read_seq": 2, "unread": 0}

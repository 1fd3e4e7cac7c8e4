"""Handlers that fail for a moment: a command has its effect then, or is answered ``internal`` and has none."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from towpath.chat.handlers import COMMANDS as CHAT
from towpath.orders.handlers import COMMANDS as ORDERS
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .answers import Answers, all_answers, all_parked
from .evidence import Asked
from .journal import now
from .trial import Trial
from .unreliable import SPARED
from .workload import Load, Manner

_PROGRAM: Final = Path(__file__).parent / "unreliable.py"
_ERRING: Final = 40
_SPARED: Final = 20
_CALM_SECONDS: Final = 5.0
_SECONDS: Final = 30.0
_TOURS: Final = 6
#: How long a service tries a command that fails (its setting's default).
_TRY_SECONDS: Final = 2.5


async def replace_services(system: System, processes: Processes, seed: str, switch: Path) -> None:
    """Run the versions whose handlers fail, instead of the services that ``system`` began with."""
    for name in ("chat", "orders"):
        reliable = getattr(system, name)
        assert await reliable.terminate() == 0
        settings = {key.removeprefix("TOWPATH_").lower(): value for key, value in reliable.settings.items()}
        process = processes.launch(
            sys.executable, str(_PROGRAM), name, seed, str(switch), name=name, **settings
        )
        setattr(system, name, process)
        await process.ready()


class Tour:
    """A user who asks for everything there is, each until it is not answered ``internal``.

    Attributes:
        attempts: For each ``msg_id``, how often it was sent.
        actions: The requested actions.
    """

    def __init__(self, name: str, system: System) -> None:
        self.attempts: Counter[str] = Counter()
        self.actions: set[str] = set()
        self._name = name
        self._system = system

    async def go(self) -> None:
        """Ask for all of it once."""
        room, guest, order = self._name, f"{self._name}-guest", f"{self._name}-1"
        async with self._system.connect(self._name) as me, self._system.connect(guest) as other:

            async def ask(action: str, data: dict[str, Any], by: WireClient = me) -> dict[str, Any]:
                msg_id = f"{self._name}-{len(self.attempts)}"
                self.actions.add(action)
                while True:
                    self.attempts[msg_id] += 1
                    await by.send(action, data, msg_id=msg_id)
                    answer = await by.find(
                        self._nth_answer(msg_id, self.attempts[msg_id]),
                        timeout=60,
                        what=f"answer to {action}",
                    )
                    if answer["action"] != "error":
                        return dict(answer["data"])
                    assert answer["data"]["code"] == "internal", answer

            await ask("chat.create", {"room": room, "private": True})
            await ask("chat.invite", {"room": room, "user": guest})
            await ask("chat.decline", {"room": room}, by=other)
            await ask("chat.invite", {"room": room, "user": guest})
            await ask("chat.join", {"room": room}, by=other)
            await ask("chat.join", {"room": f"{room}-public"})
            found = await ask("chat.find", {"prefix": room})
            assert [one["room"] for one in found["rooms"]] == [f"{room}-public"]
            seq = (await ask("chat.send", {"room": room, "text": "first"}))["seq"]
            await ask("chat.edit", {"room": room, "seq": seq, "text": "second"})
            told = await ask("chat.history", {"room": room})
            assert [one["text"] for one in told["messages"]] == ["second"]
            await ask("chat.delete", {"room": room, "seq": seq})
            await ask("chat.direct", {"to": guest, "text": "hello"})
            await ask("chat.read", {"room": room, "seq": seq})
            await ask("chat.typing", {"room": room})
            rooms = await ask("chat.rooms", {})
            assert {room, f"{room}-public"} <= {one["room"] for one in rooms["rooms"]}
            members = await ask("chat.members", {"room": room})
            assert {one["user"] for one in members["members"]} == {self._name, guest}
            await ask("chat.resume", {"positions": {f"chat:{room}": 0}})
            await ask("chat.leave", {"room": f"{room}-public"})
            await ask("chat.block", {"user": guest})
            blocked = await ask("chat.blocked", {})
            assert [one["user"] for one in blocked["users"]] == [guest]
            await ask("chat.unblock", {"user": guest})
            await ask("chat.transfer", {"room": room, "user": guest})
            await ask("chat.remove", {"room": room, "user": self._name}, by=other)
            await ask("chat.drop", {"room": room}, by=other)
            await ask("order.submit", {"order_id": order, "amount": "5.00"})
            await ask("order.cancel", {"order_id": order})
            assert (await ask("order.get", {"order_id": order}))["status"] == "cancelled"
            assert len((await ask("order.list", {}))["orders"]) == 1
            await ask("order.resume", {"positions": {f"order:{self._name}": 0}})

    @staticmethod
    def _nth_answer(msg_id: str, wanted: int) -> Callable[[dict[str, Any]], bool]:
        """Finds the answer to an attempt: that of each before has been found already."""
        seen: set[int] = set()

        def is_it(frame: dict[str, Any]) -> bool:
            if frame.get("correlation_id") != msg_id:
                return False
            seen.add(id(frame))
            return len(seen) == wanted

        return is_it


def _spared(load: Load, *, since: float = 0.0) -> list[Asked]:
    """The requests of senders whose requests never fail."""
    return [one for one in load.journal.asked if one.who.startswith(SPARED) and one.asked_at >= since]


def _late(asked: Sequence[Asked]) -> float:
    """How long one of twenty waited, or longer."""
    waits = sorted(one.answered_at - one.asked_at for one in asked)
    return waits[int(0.95 * len(waits))]


def _differences(asked: Counter[str], answered: Counter[str]) -> dict[str, tuple[int, int]]:
    return {msg_id: (count, answered[msg_id]) for msg_id, count in asked.items() if count != answered[msg_id]}


@pytest.mark.timeout(300)
async def test_commands_that_fail_for_a_moment_take_effect_or_have_none(
    system: System, rabbitmq: Rabbit, processes: Processes, trial: Trial, tmp_path: Path
) -> None:
    switch = tmp_path / "handlers-fail"
    await replace_services(system, processes, trial.seed, switch)
    users = [f"user{n}" for n in range(_ERRING)] + [f"{SPARED}{n}" for n in range(_SPARED)]
    tours = [Tour(f"tour{number}", system) for number in range(_TOURS)]
    async with (
        all_answers(rabbitmq.url) as answers,
        trial.of(
            "handlers of chat and orders fail for a moment", system, may_refuse={"internal"}, users=users,
            rooms=["room"], circles=15, pause=0.15, manner=Manner(at_once=4),
        ) as load,
    ):  # fmt: skip
        load.is_aside = lambda stream: "tour" in stream
        await asyncio.sleep(_CALM_SECONDS)
        usual = _late(_spared(load))
        before, struck = load.counted(), now()
        switch.touch()
        async with asyncio.timeout(150), asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(_SECONDS))
            for tour in tours:
                tasks.create_task(tour.go())
        rate = load.counted().rate(before)
        switch.unlink()
        await load.rest()
        asked = Counter({one.msg_id: one.attempts for one in load.journal.asked if one.who in users})
        for tour in tours:
            asked.update(tour.attempts)
        await eventually(lambda: not _differences(asked, answers.finals), timeout=20)
        await _all_parked(rabbitmq.url, answers)
        late = _late(_spared(load, since=struck))
        internal = answers.internal.total()
        trial.note(
            f"{rate}, {internal} times internal; nineteen of twenty answers to others within {late:.1f} s, "
            f"{usual:.1f} s before"
        )
        assert internal > 0, "nothing failed for long"
        assert late < usual + _TRY_SECONDS, f"others waited for {late:.1f} s, and for {usual:.1f} s before"
    assert {action for tour in tours for action in tour.actions} == CHAT.keys() | ORDERS.keys()
    assert not _differences(asked, answers.finals), "answered again after all"


async def _all_parked(url: str, answers: Answers) -> None:
    """Each ``internal`` answer has one parked message, marked as without effect."""
    parked = [one for name in ("chat", "orders") for one in await all_parked(url, name)]
    assert Counter(one.msg_id for one in parked) == answers.internal
    assert {one.headers["x-effect"] for one in parked} <= {"none"}
    assert not any(one.headers["x-reason"] != "failed" for one in parked)

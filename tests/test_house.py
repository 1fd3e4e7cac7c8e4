"""scripts/house.py counts what it says that it counts."""

import asyncio
import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

SCRIPT = Path(__file__).parent.parent / "scripts/house.py"
HOUSE = runpy.run_path(str(SCRIPT))

MODULE = '''\
# A licence.
"""A docstring
of two lines."""

from dataclasses import dataclass

#: Documents a constant.
LIMIT = 3  # the bound of the peer


@dataclass
class Pair:
    one: int
    other: int


class Door:
    def __init__(self, key: str, *, width: int) -> None:
        """A docstring
        of two lines."""
        # Why it is like this.
        self.key = key  # noqa: X
'''


def test_code_comments_and_constructors_are_counted(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "door.py").write_text(MODULE)
    (tmp_path / "__init__.py").touch()
    row = HOUSE["numbers"]("house", tmp_path, tmp_path.rglob("*.py"))
    assert (row.modules, row.lines, row.code, row.comments, row.depth) == (2, 22, 9, 2, 1)
    assert row.longest_function == (3, "shelf/door.py:__init__")
    assert row.most_parameters == (2, "shelf/door.py:Door")
    assert row.most_fields == (2, "shelf/door.py:Pair")


async def waits_twice() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def two_numbers() -> Iterator[int]:
    yield 1
    yield 2


def test_a_call_is_counted_once_however_often_it_continues() -> None:
    begins: Callable[[FrameType], bool] = HOUSE["begins"]
    names: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename == __file__ and begins(frame):
            names.append(frame.f_code.co_name)

    async def main() -> list[int]:
        await waits_twice()
        return [2 * number for number in two_numbers()]

    sys.setprofile(note)
    try:
        asyncio.run(main())
    finally:
        sys.setprofile(None)
    assert names == ["main", "waits_twice", "two_numbers"]


def test_one_chat_send_is_traced_through_gateway_broker_and_service() -> None:
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--json"], capture_output=True, text=True, check=True, timeout=120
    )
    measured = json.loads(ran.stdout)
    assert {"gateway", "chat", "servicekit", "servicekit/handling"} <= {
        row["name"] for row in measured["packages"]
    }
    everything, outside = measured["walks"]
    entered = set(everything["by_module"])
    assert {
        "gateway/forwarding/inbound",
        "servicekit/broker/memory",
        "chat/handlers",
        "gateway/forwarding/outbound",
    } <= entered
    assert not any(name.startswith("servicekit/broker/memory") for name in outside["by_module"])
    assert outside["calls"] < everything["calls"]
    assert everything["modules"] <= everything["changes"] < everything["calls"]

"""Positions outlive the client: a storage loses nothing, and a broken one stops no client."""

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from towpath.client import FileStorage, MemoryStorage, connect
from towpath.testkit.eventually import eventually

pytestmark = pytest.mark.usefixtures("nothing_is_left")


async def serve_pushes(peer: Any) -> None:
    await peer.welcome()
    while True:
        asked = await peer.hear()
        if asked["action"] == "chat.resume":
            resumes.append(asked["data"]["positions"])
            continue
        await peer.push("chat:lobby", *asked["data"]["seqs"])
        await peer.say(f"{asked['action']}.ok", correlation_id=asked["msg_id"])


resumes: list[dict[str, int]] = []


@pytest.fixture(autouse=True)
def no_resumes() -> None:
    resumes.clear()


def files_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


class Awkward:
    """Fails as given, and remembers."""

    def __init__(self, loaded: Any = None, failing: int = 0) -> None:
        self.loaded = loaded
        self.failing = failing
        self.saved: list[dict[str, int]] = []

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded

    async def save(self, positions: dict[str, int], /) -> None:
        await asyncio.sleep(0)
        if self.failing:
            self.failing -= 1
            raise OSError("the disk is full")
        self.saved.append(positions)


async def test_a_second_client_continues_from_the_positions_of_the_first(
    a_server: Any, tmp_path: Path
) -> None:
    path = tmp_path / "new folder/positions.json"
    async with a_server(serve_pushes) as server:
        async with connect(server.url, token="t", storage=FileStorage(path)) as client:
            await client.request("chat.push", {"seqs": [1, 2, 3]})
        assert json.loads(path.read_text()) == {"chat:lobby": 3}
        async with connect(server.url, token="t", storage=FileStorage(path)) as client:
            assert client.positions == {"chat:lobby": 3}
            await eventually(lambda: resumes == [{"chat:lobby": 3}])
        assert files_in(path.parent) == [path.name]


async def test_given_positions_win_over_stored_ones(a_server: Any) -> None:
    storage = MemoryStorage({"chat:lobby": 3, "chat:den": 5})
    async with (
        a_server(serve_pushes) as server,
        connect(server.url, token="t", storage=storage, positions={"chat:lobby": 9}) as client,
    ):
        assert client.positions == {"chat:lobby": 9, "chat:den": 5}


@pytest.mark.parametrize("positions", [[], "chat:lobby", {"chat:lobby": "3"}, {"chat:lobby": None}, {7: 1}])
def test_invalid_positions_are_refused_at_once(positions: Any) -> None:
    with pytest.raises(TypeError, match=r"(is not a position|are not positions)"):
        connect("ws://127.0.0.1/ws", token="t", positions=positions)


async def test_changed_positions_are_saved_while_the_client_runs(a_server: Any) -> None:
    storage = Awkward({"chat:lobby": 1})
    async with a_server(serve_pushes) as server:
        async with connect(server.url, token="t", storage=storage) as client:
            await client.request("chat.push", {"seqs": [2, 3, 4]})
            await eventually(lambda: storage.saved[-1:] == [{"chat:lobby": 4}])
            client.track("chat:den", 1)
            client.forget("chat:lobby")
        assert storage.saved[-2:] == [{"chat:lobby": 4}, {"chat:den": 1}]


async def test_a_position_is_saved_after_the_listeners_were_called(a_server: Any) -> None:
    storage = Awkward()
    async with a_server(serve_pushes) as server:
        client = connect(server.url, token="t", storage=storage)
        early: list[Any] = []

        def heard(data: dict[str, int]) -> None:
            early.extend(saved for saved in storage.saved if saved["chat:lobby"] >= data["n"])

        client.on("chat.message", heard)
        async with client:
            await client.request("chat.push", {"seqs": [1, 2]})
        assert early == []
        assert storage.saved[-1] == {"chat:lobby": 2}


@pytest.mark.parametrize(
    "loaded",
    [
        OSError("no such disk"),
        "nonsense",
        [1],
        {"chat:lobby": "3"},
        {"chat:lobby": -1},
        {7: 1},
        {"chat:lobby": 1.5},
    ],
    ids=repr,
)
async def test_unloadable_positions_are_reported_and_count_as_none(a_server: Any, loaded: Any) -> None:
    storage = Awkward(loaded)
    errors: list[Any] = []
    async with a_server(serve_pushes) as server:
        client = connect(server.url, token="t", storage=storage)
        client.on_error(errors.append)
        async with client:
            assert client.positions == {}
            await client.request("chat.push", {"seqs": [4]})
    assert [error.code for error in errors] == ["bad_storage"]
    assert errors[0].message.startswith("Positions could not be loaded: ")
    assert storage.saved == [{"chat:lobby": 4}]


async def test_a_failed_save_is_reported_and_repeated_by_the_next(a_server: Any) -> None:
    storage = Awkward(failing=1)
    errors: list[Any] = []
    async with a_server(serve_pushes) as server:
        client = connect(server.url, token="t", storage=storage)
        client.on_error(errors.append)
        async with client:
            await client.request("chat.push", {"seqs": [1]})
            await eventually(lambda: errors)
    assert [(error.code, error.message) for error in errors] == [
        ("bad_storage", "Positions could not be saved: the disk is full")
    ]
    assert storage.saved == [{"chat:lobby": 1}]


async def test_a_storage_that_never_answers_blocks_no_request(a_server: Any) -> None:
    class Stuck:
        async def load(self) -> None:
            await asyncio.Event().wait()

        async def save(self, positions: dict[str, int], /) -> None:
            await asyncio.Event().wait()

    errors: list[Any] = []
    async with a_server(serve_pushes) as server:
        client = connect(server.url, token="t", storage=Stuck(), open_timeout=1.0)
        client.on_error(errors.append)
        client.start()
        await client.opened()
        await client.request("chat.push", {"seqs": [1]})
        async with asyncio.timeout(10):
            await client.close()
    assert [error.message for error in errors] == [
        "Positions could not be loaded: no answer within 1 s",
        "Positions could not be saved: there was no time left",
    ]


async def test_an_interrupted_start_deletes_nothing(a_server: Any) -> None:
    class Slow(Awkward):
        async def load(self) -> Any:
            await asyncio.Event().wait()

    storage = Slow()
    async with a_server(serve_pushes) as server:
        client = connect(server.url, token="t", storage=storage, positions={"chat:lobby": 1})
        client.start()
        await asyncio.sleep(0)
        async with asyncio.timeout(1.9):
            await client.close()
    assert storage.saved == []


async def test_a_file_is_written_beside_the_loop_and_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "positions.json"
    storage = FileStorage(path)
    assert await storage.load() is None
    await storage.save({"chat:lobby": 1})

    threads: list[int] = []

    def full(descriptor: int) -> None:
        threads.append(threading.get_ident())
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        await storage.save({"chat:lobby": 2})
    assert threads != [threading.get_ident()]
    assert await storage.load() == {"chat:lobby": 1}
    assert files_in(tmp_path) == [path.name]

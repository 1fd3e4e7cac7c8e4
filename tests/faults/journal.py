"""Events of a trial, recorded as they happen."""

import time
from typing import Any

from towpath.client import Client, Incomplete

from .evidence import Asked, Followed, Shown

now = time.monotonic


class Device:
    """One client of one person; it writes down what it is shown.

    Attributes:
        client: The client, not started yet.
        problems: Errors that it reported in the background.
    """

    def __init__(self, name: str, user: str, client: Client, journal: "Journal") -> None:
        self.name = name
        self.client = client
        self.problems: list[BaseException] = []
        self._user = user
        self._journal = journal
        self._since: dict[str, int] = {}
        self._restarts: dict[str, list[int]] = {}
        client.on("*", self._show)
        client.on("incomplete", self._restart)
        client.on_error(self.problems.append)

    def follow(self, stream: str, since: int) -> None:
        """It follows ``stream`` from there to the end."""
        self._since[stream] = since
        self.client.track(stream, since)

    def followed(self) -> list[Followed]:
        """All that it follows."""
        return [
            Followed(self.name, stream, since, self._restarts.get(stream, []))
            for stream, since in self._since.items()
        ]

    def is_at(self, heads: dict[str, int]) -> bool:
        """Whether it has come to the end of all that it follows."""
        positions = self.client.positions
        return all(positions.get(stream, 0) >= heads.get(stream, 0) for stream in self._since)

    def _show(self, data: dict[str, Any], envelope: dict[str, Any]) -> None:
        stream = envelope.get("stream", "")
        if stream or envelope["action"] == "wave.made":
            self._journal.shown.append(
                Shown(self.name, self._user, envelope["action"], stream, envelope.get("seq", 0), data, now())
            )

    def _restart(self, told: Incomplete) -> None:
        if told.seq is not None:
            self._restarts.setdefault(told.stream, []).append(told.seq)


class Journal:
    """All that was asked and shown.

    Attributes:
        asked: Operations whose outcome is known, or was given up.
        shown: The pushes that each device received.
        passing: For the token of each passing push, the user it was for.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.shown: list[Shown] = []
        self.passing: dict[str, str] = {}

"""A world around a session with views: one stream's log, a connection that loses and repeats, loads at any time.

The world takes one step after the other, whichever the caller chooses, and checks what each view has: always a prefix
of the log, to which each change adds the next entry. :meth:`World.settle` lets all that is under way come to its end;
then every view has the whole log.

As a program it writes stories for clients in other languages, ``libs/protocol/vectors/session/view_stories.json``.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from towpath.client import actions, events
from towpath.client.errors import TowpathError
from towpath.client.session import Session

STREAM: Final = "chat:lobby"
#: Unix milliseconds at the beginning, as in all vectors.
EPOCH_MS: Final = 1_000_000
STORIES: Final = Path(__file__).parents[3] / "libs/protocol/vectors/session/view_stories.json"
_STORIES: Final = 12
_STEPS: Final = 60
_VIEWS: Final = 3

#: One of so many possibilities.
Choose = Callable[[int], int]
Frame = dict[str, Any]


@dataclass
class View:
    """The entries that the application has of one view, numbered from 1."""

    has: list[int] | None = None


@dataclass
class Load:
    """A load under way; ``read`` is what it gives, once the database has answered."""

    view: str
    read: int | None = None


@dataclass
class World:
    """See the head of the module.

    Attributes:
        steps: All events so far, with the actions that followed, as vectors write them.
        head: The last entry of the log.
        kept_after: Entries up to this one are not replayed any more.
        live: Pushes on their way to the gateway.
        wire: Frames on their way from the gateway to the client, in order.
        asked: Resumes on their way to the service.
    """

    choose: Choose
    steps: list[dict[str, Any]] = field(default_factory=list)
    now: int = 0
    head: int = 0
    kept_after: int = 0
    live: list[int] = field(default_factory=list)
    wire: list[Frame] = field(default_factory=list)
    asked: list[Frame] = field(default_factory=list)
    is_subscribed: bool = False
    has_missed: bool = False
    timers: set[str] = field(default_factory=set)
    views: dict[str, View] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    opened: int = 0

    def __post_init__(self) -> None:
        self.session = Session(["ws://one/ws"], id_prefix="s")
        self.connects = False
        self.handle({"type": "start"})
        self.handle({"type": "token", "purpose": "connect", "token": "t"})
        self.welcome()

    # Steps

    def step(self) -> None:
        """Do one thing that can happen now."""
        possible: list[Callable[[], None]] = [self.commit, self.commit, self.forget_entries]
        if self.live:
            possible += [self.deliver_live] * 3 + [self.lose_live]
        if self.wire:
            possible += [self.receive] * 4 + [self.repeat]
        if self.asked:
            possible += [self.serve_resume] * 3
        if self.loads:
            possible += [self.read, self.finish_load, self.finish_load, self.fail_load]
        if len(self.views) < _VIEWS:
            possible += [self.open_view] * 2
        if self.views:
            possible += [self.close_view, self.reload_view]
        if self.timers & {"resume:chat"} or any(timer.startswith("view:") for timer in self.timers):
            possible += [self.time_passes]
        possible += [self.resync, self.lose_connection] if self.is_open else [self.return_]
        possible[self.choose(len(possible))]()

    def commit(self) -> None:
        self.head += 1
        if self.is_subscribed:
            self.live.append(self.head)

    def forget_entries(self) -> None:
        self.kept_after = self.choose(self.head + 1)

    def deliver_live(self) -> None:
        self.wire.append(push(self.live.pop(0)))

    def lose_live(self) -> None:
        self.live.pop(self.choose(len(self.live)))
        self.has_missed = True

    def receive(self) -> None:
        self.frame(self.wire.pop(0))

    def repeat(self) -> None:
        self.frame(self.wire[0])

    def serve_resume(self) -> None:
        asked = self.asked.pop(0)
        seq = asked["data"]["positions"].get(STREAM)
        self.is_subscribed = True
        streams = {}
        if seq is not None:
            complete = self.kept_after <= seq <= self.head
            self.wire += [push(entry) for entry in range(seq + 1, self.head + 1)] if complete else []
            streams[STREAM] = {"seq": self.head, "complete": complete}
        self.wire.append(
            {"action": "chat.resume.ok", "data": {"streams": streams}, "correlation_id": asked["msg_id"]}
        )

    def resync(self) -> None:
        self.is_subscribed = False
        self.has_missed = False
        self.live.clear()
        self.wire.append({"action": "session.resync", "data": {"reason": "broker"}})

    def lose_connection(self) -> None:
        self.is_subscribed = self.has_missed = False
        for under_way in (self.live, self.wire, self.asked):
            under_way.clear()
        self.handle({"type": "disconnected", "code": 1006, "reason": ""})

    def return_(self) -> None:
        self.fire("reconnect")
        self.welcome()

    def time_passes(self) -> None:
        self.now += (100, 1_000, 12_000)[self.choose(3)]
        due = sorted(timer for timer in self.timers if timer.startswith(("view:", "resume:")))
        self.fire(due[self.choose(len(due))])

    def open_view(self) -> None:
        self.opened += 1
        name = f"v-{self.opened}"
        self.views[name] = View()
        self.handle({"type": "open_view", "view": name, "stream": STREAM})

    def close_view(self) -> None:
        name = self.any_view()
        del self.views[name]
        self.handle({"type": "close_view", "view": name})
        self.loads = [load for load in self.loads if load.view != name]

    def reload_view(self) -> None:
        self.handle({"type": "reload_view", "view": self.any_view()})

    def read(self) -> None:
        """The database answers a load; the answer takes its time."""
        self.loads[self.choose(len(self.loads))].read = self.head

    def finish_load(self) -> None:
        load = self.loads.pop(self.choose(len(self.loads)))
        seq = self.head if load.read is None else load.read
        self.handle({"type": "loaded", "view": load.view, "seq": seq, "state": seq})

    def fail_load(self) -> None:
        load = self.loads.pop(self.choose(len(self.loads)))
        error = {"code": "busy", "message": "full", "retryable": True}
        self.handle({"type": "load_failed", "view": load.view, "error": error})

    def settle(self) -> None:
        """Let everything end, and check that every view has the whole log."""
        if not self.is_open:
            self.return_()
        if self.has_missed:
            self.resync()
        for _ in range(1_000):
            if self.wire:
                self.receive()
            elif self.asked:
                self.serve_resume()
            elif self.live:
                self.deliver_live()
            elif self.loads:
                self.finish_load()
            elif due := sorted(timer for timer in self.timers if timer.startswith(("view:", "resume:"))):
                self.now += 1_000
                self.fire(due[0])
            else:
                break
        else:
            raise AssertionError("it does not come to rest")
        log = list(range(1, self.head + 1))
        for name, view in self.views.items():
            assert view.has == log, f"{name} lacks entries"

    # Inside

    @property
    def is_open(self) -> bool:
        return self.session.state == "open"

    def any_view(self) -> str:
        return list(self.views)[self.choose(len(self.views))]

    def welcome(self) -> None:
        self.frame({"action": "session.welcome", "data": {}})

    def frame(self, envelope: Frame) -> None:
        self.handle({"type": "frame", "envelope": envelope})

    def fire(self, timer: str) -> None:
        self.timers.discard(timer)
        self.handle({"type": "timer", "timer": timer})

    def handle(self, event: dict[str, Any]) -> None:
        acted = self.session.handle(the_event(event), EPOCH_MS + self.now)
        step = {"at": self.now, "event": event, "actions": [written(action) for action in acted]}
        self.steps.append({**step, "state": self.session.state, "positions": self.session.positions})
        for action in acted:
            self.follow(action)

    def follow(self, action: actions.Action) -> None:
        match action:
            case actions.Send(text):
                envelope = json.loads(text)
                if envelope["action"] == "chat.resume":
                    self.asked.append(envelope)
            case actions.Timer(timer):
                self.timers.add(timer)
            case actions.Cancel(timer):
                self.timers.discard(timer)
            case actions.Load(view):
                assert all(load.view != view for load in self.loads), "one load at a time"
                self.loads.append(Load(view))
            case actions.Reset(view, seq, state):
                assert seq == state
                self.views[view].has = list(range(1, seq + 1))
            case actions.Change(view, envelope):
                has = self.views[view].has
                assert has is not None, "a state comes first"
                assert envelope["seq"] == len(has) + 1, "each change once, in order"
                has.append(envelope["seq"])
            case actions.ViewFailed():
                raise AssertionError("no load failed for good")
            case _:
                pass


def push(seq: int) -> Frame:
    return {"action": "chat.message", "data": {}, "stream": STREAM, "seq": seq}


def the_event(written: dict[str, Any]) -> Any:
    """An event as a vector writes it."""
    event = dict(written)
    kind = _EVENTS[event.pop("type")]
    if "envelope" in event:
        filled = {"msg_id": "srv", "timestamp": 0, "version": "1.0", **event.pop("envelope")}
        event["text"] = json.dumps(filled)
    if "error" in event:
        event["error"] = TowpathError(**event["error"])
    return kind(**event)


_EVENTS: Final[dict[str, Any]] = {
    "start": events.Start,
    "token": events.Token,
    "frame": events.Frame,
    "disconnected": events.Disconnected,
    "timer": events.Timer,
    "open_view": events.OpenView,
    "close_view": events.CloseView,
    "reload_view": events.ReloadView,
    "loaded": events.Loaded,
    "load_failed": events.LoadFailed,
}
_NAMES: Final = {actions.ViewFailed: "view_failed", actions.FetchToken: "fetch_token"}


def written(action: actions.Action) -> dict[str, Any]:
    """An action as a vector writes it."""
    name = _NAMES.get(type(action), type(action).__name__.lower())
    values = {one.name: getattr(action, one.name) for one in fields(action)}
    if isinstance(action, actions.Send):
        envelope = json.loads(action.text)
        return {"do": name, "envelope": {key: envelope[key] for key in ("msg_id", "action", "data")}}
    if "envelope" in values:
        envelope = values["envelope"]
        keys = ("action", "seq") if "seq" in envelope else ("action",)
        values["envelope"] = {key: envelope[key] for key in keys}
    if isinstance(error := values.get("error"), TowpathError):
        values["error"] = {"code": error.code}
    return {"do": name, **{key: value for key, value in values.items() if value is not None}}


def story(seed: int) -> World:
    """A story that depends on nothing but ``seed``."""
    chance = random.Random(seed)
    world = World(lambda count: int(chance.random() * count))
    for _ in range(_STEPS):
        world.step()
    world.settle()
    return world


def stories() -> str:
    """The contents of :data:`STORIES`."""
    about = "Views whatever happens: stories of a model of the server. Written by view_world.py."
    vectors = []
    for seed in range(1, _STORIES + 1):
        steps = ",\n".join(json.dumps(step) for step in story(seed).steps)
        vectors.append(f'{{"name": "story {seed}", "steps": [\n{steps}\n]}}')
    return f'{{"about": {json.dumps(about)}, "vectors": [\n{",".join(vectors)}\n]}}\n'


if __name__ == "__main__":
    STORIES.write_text(stories())

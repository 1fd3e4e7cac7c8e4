"""Views: the state of a stream, and then every later change of it, in order and once. No I/O.

A view begins with a load, which gives the state and the position that it includes. Pushes of the stream that arrive
meanwhile are held; those after the position follow the state. A load is issued after all pushes so far, so its state
includes them; one whose position is lower was read before them, and is discarded.

Guarantees:

* The application gets ``Reset`` and then the ``Change`` of each later ``seq``, without a gap. Where that is not
  possible (``Incomplete``, a gap, more held pushes than the limit) the state is loaded again, and a new ``Reset``
  follows: at once the first time, then with backoff.
* One load of a view runs at a time.
* A view that was closed or has failed puts nothing out, holds nothing, and has no timer. With the last view of a
  stream its position goes as well, unless the application follows the stream beside its views.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from towpath.client.actions import Action, Cancel, Change, Load, Report, Reset, Timer, ViewFailed
from towpath.client.envelope import Envelope
from towpath.client.errors import TowpathError
from towpath.client.reconnect import STEADY_MS, advised, backoff

#: Pushes that one view holds while its state is loaded. Past it they are dropped, and the state is loaded again.
_LOADING_LIMIT: Final = 1_000


class Streams(Protocol):
    """The part of the session's streams that a view needs; see :class:`towpath.client.resumption.Resumption`."""

    def position(self, stream: str) -> int | None:
        """The last ``seq`` that was put out; ``None`` if there is none yet."""

    def is_known(self, stream: str) -> bool:
        """Whether the stream has a position, or waits for one."""

    def open(self, stream: str) -> None:
        """Hold the pushes of a stream without a position until it has one."""

    def unopened(self, stream: str) -> None:
        """The position is not known after all."""

    def follow(self, stream: str, seq: int) -> None:
        """Receive what comes after ``seq``."""

    def forget(self, stream: str) -> None:
        """Drop the position."""


@dataclass(slots=True)
class _View:
    """One view.

    Attributes:
        phase: ``loading``, ``waiting`` for another load, or ``live``.
        position: While it is live, the last ``seq`` that was put out. While it is loading, the one that ``held``
            follows without a gap; ``None`` if there is none to go by.
        is_opening: The stream had no position when the load was issued: its pushes wait for the load.
        is_outdated: Something was missed since the load was issued, so its state is of no use.
        is_refused: The service said that the user does not receive the stream, and that was not disproved since.
        tries: Loads since the view was last steady.
    """

    name: str
    stream: str
    phase: Literal["loading", "waiting", "live"] = "loading"
    position: int | None = None
    held: list[tuple[int, Envelope]] = field(default_factory=list)
    is_opening: bool = False
    is_outdated: bool = False
    is_refused: bool = False
    tries: int = 0
    live_at: int = 0


class Views:
    """The views of a session.

    Args:
        act: Puts an action out.
        streams: The session's streams.
        now: Unix milliseconds.
    """

    def __init__(self, act: Callable[[Action], None], streams: Streams, now: Callable[[], int]) -> None:
        self._act = act
        self._streams = streams
        self._now = now
        self._views: dict[str, _View] = {}
        self._by_stream: dict[str, list[_View]] = {}
        self._owned: set[str] = set()  # streams whose position is here for views alone

    def open(self, name: str, stream: str) -> None:
        """The application opens a view."""
        view = _View(name, stream)
        self._views[name] = view
        self._by_stream.setdefault(stream, []).append(view)
        if not self._streams.is_known(stream):
            self._owned.add(stream)
        self._load(view)

    def close(self, name: str) -> None:
        """The application is done with a view."""
        view = self._views.pop(name, None)
        if view is None:
            return
        stream = view.stream
        self._act(Cancel(f"view:{name}"))
        self._by_stream[stream].remove(view)
        self._unopened(view)
        if not self._by_stream[stream]:
            del self._by_stream[stream]
            if stream in self._owned:
                self._owned.discard(stream)
                self._streams.forget(stream)

    def loaded(self, name: str, seq: int, state: Any) -> None:
        """A load has ended.

        Args:
            name: Of the view; one that was closed is ignored.
            seq: The position that ``state`` includes.
            state: Opaque.
        """
        view = self._views.get(name)
        if view is None or view.phase != "loading":
            return
        # Without one of its own nothing was put out since the stream has a position, if it has one by now.
        base = self._streams.position(view.stream) if view.position is None else view.position
        if view.is_outdated or (base is not None and seq < base):
            self._again(view)
            return
        held, view.held = view.held, []
        view.phase, view.position, view.live_at = "live", seq, self._now()
        self._act(Reset(name, seq, state))
        for at, envelope in held:
            self._change(view, at, envelope)
        # Last: it puts out what the stream itself has held.
        view.is_opening = False
        self._streams.follow(view.stream, seq)

    def load_failed(self, name: str, error: TowpathError) -> None:
        """A load has failed; it is repeated if the error says that this may help."""
        view = self._views.get(name)
        if view is None or view.phase != "loading":
            return
        if not error.retryable:
            self._fail(view, error)
            return
        self._act(Report(error))
        self._wait(view, advised(error.retry_after_ms))

    def reload(self, name: str) -> None:
        """The application has not taken what was put out, and wants the state again."""
        view = self._views.get(name)
        if view is not None and view.phase == "live":
            self._again(view)

    def time_up(self, name: str) -> None:
        """The wait before another load is over."""
        if (view := self._views.get(name)) is not None:
            self._load(view)

    def wanted(self, stream: str) -> None:
        """The application itself follows the stream: its position stays when the views are closed."""
        self._owned.discard(stream)

    def arrive(self, stream: str, seq: int, envelope: Envelope) -> None:
        """A push was put out."""
        for view in tuple(self._by_stream.get(stream, ())):
            if view.phase == "live":
                if view.position is not None and seq > view.position + 1:
                    self._again(view)
                else:
                    self._change(view, seq, envelope)
            elif view.phase == "loading":
                _hold(view, seq, envelope)

    def incomplete(self, stream: str, seq: int | None, *, refused: bool = False) -> None:
        """Pushes of a stream were missed for good.

        Args:
            stream: Its name.
            seq: The position from which it continues, if that is known.
            refused: The user does not receive the stream.
        """
        for view in tuple(self._by_stream.get(stream, ())):
            # Twice, because the user's rights may have changed between the answer and the load.
            if refused and view.is_refused and view.phase == "live":
                self._fail(view, _not_received(stream))
                continue
            view.is_refused = refused
            if view.phase == "live":
                self._again(view)
            elif seq is None:
                # The load under way may have been answered before what was missed.
                view.is_outdated = True
            if view.phase == "loading":
                view.position, view.held = seq, []

    def complete(self, stream: str) -> None:
        """Nothing of a stream was missed: the user does receive it."""
        for view in self._by_stream.get(stream, ()):
            view.is_refused = False

    def end(self, error: TowpathError) -> None:
        """The session is closed. Positions stay: the next session may continue from them."""
        for name in self._views:
            self._act(Cancel(f"view:{name}"))
            self._act(ViewFailed(name, error.copied()))
        self._views.clear()
        self._by_stream.clear()

    def _load(self, view: _View) -> None:
        view.phase, view.is_outdated, view.held = "loading", False, []
        # The state is read after all of these pushes, so it includes them.
        view.position = self._streams.position(view.stream)
        if view.position is None:
            view.is_opening = True
            self._streams.open(view.stream)
        self._act(Load(view.name))

    def _again(self, view: _View) -> None:
        """Load the state again."""
        if view.phase == "live" and self._now() - view.live_at >= STEADY_MS:
            view.tries = 0
        if view.tries == 0:
            view.tries = 1
            self._unopened(view)
            self._load(view)
        else:
            self._wait(view, 0)

    def _wait(self, view: _View, advice_ms: float) -> None:
        view.phase, view.held = "waiting", []
        self._unopened(view)
        self._act(Timer(f"view:{view.name}", *backoff(view.tries, advice_ms)))
        view.tries += 1

    def _change(self, view: _View, seq: int, envelope: Envelope) -> None:
        if view.position is not None and seq <= view.position:
            return
        view.position = seq
        self._act(Change(view.name, envelope))

    def _fail(self, view: _View, error: TowpathError) -> None:
        self._act(ViewFailed(view.name, error))
        self.close(view.name)

    def _unopened(self, view: _View) -> None:
        if view.is_opening:
            view.is_opening = False
            self._streams.unopened(view.stream)


def _hold(view: _View, seq: int, envelope: Envelope) -> None:
    last = view.held[-1][0] if view.held else view.position
    if last is not None and seq <= last:
        return
    if len(view.held) >= _LOADING_LIMIT:
        # The state under way is of use only if it includes all of them.
        view.position, view.held = seq, []
        return
    if last is None or seq > last + 1:
        view.position, view.held = seq - 1, []
    view.held.append((seq, envelope))


def _not_received(stream: str) -> TowpathError:
    message = (
        f"The service does not send {stream} to this user. Check the name of the stream, and that the user is in "
        "the room or owns what it names."
    )
    return TowpathError("forbidden", message, details={"stream": stream})

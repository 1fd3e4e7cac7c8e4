"""The session whatever comes: beyond the shared vectors, any nonsense in any order."""

import json
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.client import actions, events
from towpath.client.errors import TowpathError
from towpath.client.session import Session

WORDS = st.sampled_from(
    [
        *("session.welcome", "session.expiring", "session.closing", "session.resync"),
        *("chat.message", "chat.send.ok", "chat.resume.ok", "session.refresh.ok"),
        *("error", "accepted", "pong", "", "x"),
    ]
)
ODD: Any = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})
)
IDS = st.sampled_from(["m-1", "m-2", "s-1", "s-2", "s-3"])
STREAMS = st.sampled_from(["chat:lobby", "chat:den", "order:ana", ":", "x"])
SEQS = st.integers(-1, 12)
DATA = st.fixed_dictionaries(
    {},
    optional={
        "seq": SEQS | ODD,
        "streams": st.dictionaries(
            STREAMS,
            st.fixed_dictionaries({}, optional={"seq": SEQS | ODD, "complete": st.booleans() | ODD}) | ODD,
        )
        | ODD,
        "code": st.sampled_from([4503, 1012, 4001.0, "busy", True]) | ODD,
        "reason": ODD,
        "message": ODD,
        "retryable": ODD,
        "retry_after_ms": ODD,
        "details": ODD,
        "heartbeat_ms": ODD,
        "max_frame_bytes": ODD,
    },
)
FRAMES = st.fixed_dictionaries(
    {"action": WORDS | ODD, "data": DATA | ODD},
    optional={"correlation_id": IDS | ODD, "stream": STREAMS | ODD, "seq": SEQS | ODD},
).map(lambda envelope: events.Frame(json.dumps(envelope)))
TIMERS = st.sampled_from(
    [
        "reconnect",
        "welcome",
        "quiet",
        "pong",
        "refresh",
        "resume:chat",
        "resume:order",
        "resume:",
        "request:m-1",
    ]
)
ERRORS = st.builds(
    TowpathError, st.sampled_from(["no_token", "aborted"]), st.just("no"), retryable=st.booleans()
)
PURPOSES: Any = st.sampled_from(["connect", "refresh"])
EVENTS = (
    FRAMES
    | st.builds(events.Frame, st.text(max_size=20) | st.binary(max_size=5))
    | st.builds(events.Token, PURPOSES, st.just("t"))
    | st.builds(events.TokenFailed, PURPOSES, ERRORS)
    | st.builds(
        events.Disconnected,
        st.sampled_from([1000, 1006, 1012, 4001, 4003, 4500]),
        st.just(""),
        st.none() | st.just(503),
        st.none() | st.floats(),
    )
    | st.builds(events.Timer, TIMERS)
    | st.builds(
        events.Request,
        IDS,
        st.just("chat.send"),
        timeout_ms=st.none() | st.just(50),
        stream=st.none() | STREAMS,
    )
    | st.builds(events.Abandon, IDS, ERRORS)
    | st.builds(events.Track, STREAMS, st.integers(0, 12))
    | st.builds(events.Forget, STREAMS)
    | st.builds(events.Resume, st.none() | st.just("chat"))
    | st.just(events.Start())
    | st.just(events.Network())
)


@settings(max_examples=400)
@given(st.lists(EVENTS, max_size=40), st.dictionaries(STREAMS, st.integers(0, 9), max_size=3))
def test_no_order_of_events_breaks_a_promise(happening: list[Any], positions: dict[str, int]) -> None:
    session = Session(["ws://one/ws"], id_prefix="s", positions=positions, queue_limit=3)
    under_way: Counter[str] = Counter()
    timers: set[str] = set()
    put_out: dict[str, int] = dict(positions)
    begin = [events.Start(), events.Token("connect", "t")]
    welcome = events.Frame('{"action": "session.welcome", "data": {}}')
    for now, event in enumerate([*begin, welcome, *happening, events.Close()], 1_000_000):
        if isinstance(event, events.Request):
            if under_way[event.msg_id]:
                continue  # the driver refuses a msg_id that is under way
            under_way[event.msg_id] += 1
        if isinstance(event, events.Timer):
            timers.discard(event.timer)
        if isinstance(event, events.Forget):
            put_out.pop(event.stream, None)
        closed = session.state == "closed"
        for action in session.handle(event, now):
            match action:
                case actions.Resolve(msg_id) | actions.Reject(msg_id):
                    under_way[msg_id] -= 1
                    assert under_way[msg_id] == 0
                case actions.Timer(timer, least, most):
                    assert 0 <= least <= most < 400_000 or timer == "quiet"
                    timers.add(timer)
                case actions.Cancel(timer):
                    assert timer in timers, "only what is set is cancelled"
                    timers.discard(timer)
                case actions.Incomplete(stream):
                    put_out.pop(stream, None)
                case actions.Push(envelope) if isinstance(envelope.get("stream"), str):
                    stream, seq = envelope["stream"], envelope.get("seq")
                    if stream and isinstance(seq, int) and seq >= 1 and stream in put_out:
                        assert seq > put_out[stream], "in order, and once"
                        put_out[stream] = seq
                case _:
                    pass
            assert not closed or isinstance(action, actions.Reject), "after the end nothing is put out"
    assert session.state == "closed"
    assert +under_way == Counter(), "every request has ended"
    assert timers == set(), "no timer is left"

"""The promises of the measurement of growth: faults are counted, and charts show the measurements."""

import itertools
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import msgspec
import pytest
import sqlalchemy as sa

from bench.dialects.plain import numbered_texts
from bench.generator.clients import Client
from bench.generator.conversing import Talk, members_of, people, room_name
from bench.generator.reading import KINDS, Reader
from bench.growth import services
from bench.growth.chart import Line, Panel, apart, picture, scale_of
from bench.growth.command import AXES
from bench.growth.page import in_short, page, table
from bench.growth.page import picture as picture_of
from bench.growth.points import Growth, Missing, Point, point
from bench.growth.seed import add_messages, add_rooms, chat_database
from bench.tests.growth_runs import a_run
from towpath.chat.tables import INBOX, MESSAGES, STREAMS
from towpath.protocol.chat import stream_of
from towpath.protocol.envelope import parse
from towpath.servicekit.storage.replays import Asked, replay
from towpath.servicekit.storage.stored_outcome import StoredOutcome

_SVG = "{http://www.w3.org/2000/svg}"


# Points


def test_a_measurement_can_be_read_from_its_file(tmp_path: Path) -> None:
    run = a_run()
    run.save(tmp_path / "growth.json")
    assert Growth.load(tmp_path / "growth.json") == run


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "growth.json").write_text('{"measurements": []}')
    with pytest.raises(ValueError, match="no growth"):
        Growth.load(tmp_path / "growth.json")


def test_an_axis_measured_again_names_its_run(tmp_path: Path) -> None:
    again = replace(
        a_run(),
        command="python -m bench --growth --axes rooms",
        facts={"Day": "2026-11-28"},
        points=[replace(one, figures=one.figures | {"p50, ms": 1.0}) for one in a_run().along("rooms")],
    )
    both = a_run().with_axes(again)
    assert both.along("rooms") == again.points
    assert both.along("load") == a_run().along("load")
    both.save(tmp_path / "growth.json")
    assert Growth.load(tmp_path / "growth.json") == both
    text = page(both, AXES, "{{facts}}")
    assert (
        "*Rooms* is from another run, `python -m bench --growth --axes rooms` (day: 2026-11-28)"
        in " ".join(text.split())
    )
    assert "another run" not in page(a_run(), AXES, "{{facts}}")


def test_faults_are_reported_in_words() -> None:
    result = {
        "count": 10,
        "seconds": 2.0,
        "times": {"5": 10},
        "generator_share": 0.1,
        "cpu": {"gateway": 0.001},
    }
    found = point("rooms", 10, result | {"lost": 3, "duplicates": 0, "disorder": 1}, wrong="1 fallbacks")
    assert found.wrong == "3 lost, 1 out of order, 1 fallbacks"
    assert found.figures["a second"] == 5
    assert found.figures["µs gateway"] == pytest.approx(100)


def test_the_slope_is_the_cost_of_one_more() -> None:
    def run(*values: float) -> Growth:
        points = [Point("replicas", size, "push", {"µs": value}) for size, value in enumerate(values, 1)]
        return Growth("", {}, points)

    assert run(100, 130, 160, 190).slope("replicas", "push", "µs") == pytest.approx(30)
    assert run(100, 90, 80).slope("replicas", "push", "µs") == 0
    with pytest.raises(Missing, match="two sizes"):
        run(100).slope("replicas", "push", "µs")


# Replicas of a service


def _counted(elsewhere: float, **counts: int) -> dict[int, dict[str, Any]]:
    return {
        int(size.removeprefix("of_")): {
            "count": count,
            "seconds": 2.0,
            "times": {"5": count},
            "generator_share": 0.1,
            "cpu": {"service": 1.0},
            "elsewhere": elsewhere,
        }
        for size, count in counts.items()
    }


def test_of_several_rounds_the_quietest_counts() -> None:
    rounds = [_counted(0.2, of_1=100, of_4=500), _counted(0.01, of_1=100, of_4=300)]
    found = list(services.points_of(services.WAIT, services.quietest(rounds)))
    assert [(one.size, one.figures["a second"], one.figures[services.RATIO]) for one in found] == [
        (1, 50, 1),
        (4, 150, 3),
    ]


# Rooms in which people talk


def test_every_room_has_as_many_members_and_every_user_as_many_rooms() -> None:
    rooms = [members_of(place, 3, 200) for place in range(1000)]
    assert all(len(set(members)) == 3 for members in rooms)
    counts = [sum(user in members for members in rooms) for user in range(200)]
    assert max(counts) - min(counts) <= 1
    assert members_of(7, 3, 2) == [1, 0]


@dataclass
class Ear:
    """A fake client: keeps its frames, and receives those of a test."""

    sent: list[bytes] = field(default_factory=list)
    ended: bool = False

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def reply(self, frame: bytes) -> None:
        raise AssertionError(f"unknown frame: {frame!r}")

    def receive(self, frame: bytes) -> None:
        raise AssertionError("there is no receiver")


def _talk(users: int, rooms: int) -> tuple[Talk, list[Ear]]:
    ears = [Ear() for _ in range(users)]
    talk = Talk("t", cast("list[Client]", ears), rooms, members=2)
    talk.window.open = True
    return talk, ears


_PUSHED = numbered_texts("chat.message", '"room":"tr0",')


def test_a_message_counts_once_all_its_members_have_it() -> None:
    talk, ears = _talk(users=2, rooms=1)
    talk.speak(0, since=0)
    ears[0].receive(_PUSHED(0))
    assert talk.window.count == 0
    ears[1].receive(_PUSHED(0))
    assert talk.window.count == 1
    assert not any(talk.faults().values())


def test_a_message_that_one_member_never_receives_is_lost() -> None:
    talk, ears = _talk(users=2, rooms=1)
    talk.speak(0, since=0)
    ears[0].receive(_PUSHED(0))
    assert talk.faults()["lost"] == 1


def test_doubled_and_disordered_messages_are_counted() -> None:
    talk, ears = _talk(users=2, rooms=1)
    for number in (0, 1):
        talk.speak(number, since=0)
    for number in (1, 0, 0):
        ears[0].receive(_PUSHED(number))
    faults = talk.faults()
    assert (faults["duplicates"], faults["disorder"]) == (1, 1)


def test_messages_of_different_rooms_may_arrive_in_any_order() -> None:
    talk, ears = _talk(users=2, rooms=2)
    for number in (0, 1):
        talk.speak(number, since=0)
    for number in (1, 0):
        ears[0].receive(_PUSHED(number))
    assert talk.faults()["disorder"] == 0


def test_speakers_alternate() -> None:
    talk, ears = _talk(users=4, rooms=2)
    for number in range(8):
        talk.speak(number, since=0)
    assert [len(ear.sent) for ear in ears] == [2, 2, 2, 2]


# A room full of messages


class Service(Ear):
    """A fake connection to chat: answers at once."""

    user = "reader"

    def __init__(self, *, pages: int = 50, replayed: int = 100) -> None:
        super().__init__()
        self.head = 1000
        self._pages = pages
        self._replayed = replayed

    def send(self, frame: bytes) -> None:
        number = frame[frame.index(b'"msg_id":"') + 10 :][:10]
        answer = b'{"action":"%s","data":{%s},"correlation_id":"' + number + b'"}'
        if b'"chat.send"' in frame:
            self.head += 1
            self.receive(answer % (b"chat.send.ok", b'"room":"r","seq":%d' % self.head))
        elif b'"chat.history"' in frame:
            self.receive(answer % (b"chat.history.ok", b",".join([b'"user":"u"'] * self._pages)))
        else:
            for seq in range(self.head - self._replayed + 1, self.head + 1):
                self.receive(b'{"action":"chat.message","stream":"chat:r","seq":%d}' % seq)
            self.receive(answer % (b"chat.resume.ok", b'"complete":true'))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_with_the_expected_content_is_right(kind: str) -> None:
    reader = Reader(cast("Client", Service()), "r", head=1000)
    assert await reader.ask(kind) >= 0
    assert reader.wrong == 0


@pytest.mark.parametrize(
    ("kind", "service"),
    [
        ("history", Service(pages=49)),
        ("history_middle", Service(pages=51)),
        ("resume", Service(replayed=99)),
    ],
)
async def test_an_incomplete_answer_is_counted(kind: str, service: Service) -> None:
    reader = Reader(cast("Client", service), "r", head=1000)
    await reader.ask(kind)
    assert reader.wrong == 1


# A database that is full of messages


async def test_a_seeded_message_is_stored_like_a_sent_one(tmp_path: Path) -> None:
    users = people("t", 2)
    room = room_name("t", 0)
    stream = stream_of(room)
    async with chat_database(tmp_path / "chat.db") as database:
        await add_rooms(database, [(room, users)])
        await add_messages(database, room, users[0], 300)
        async with database.reading() as connection:
            (resumed,) = await replay(
                connection, STREAMS, [Asked({stream: 200})], limit=1000, max_bytes=1 << 20
            )
            seqs = (await connection.execute(sa.select(MESSAGES.c.seq))).scalars().all()
            outcomes = (await connection.execute(sa.select(INBOX.c.outcome))).scalars().all()
    assert sorted(seqs) == list(range(1, 301))
    found = resumed[stream]
    assert (found.seq, found.complete) == (300, True)
    pushes = [parse(entry) for entry in found.entries]
    assert [push.seq for push in pushes] == list(range(201, 301))
    assert {(push.action, push.stream, push.data["room"]) for push in pushes} == {
        ("chat.message", stream, room)
    }
    assert [push.data["seq"] for push in pushes] == list(range(201, 301))
    answers = [parse(bytes(msgspec.json.decode(outcome, type=StoredOutcome).answer)) for outcome in outcomes]
    assert sorted(answer.data["seq"] for answer in answers) == list(range(1, 301))


# Charts and tables


def test_equal_factors_have_equal_distances_on_a_logarithmic_scale() -> None:
    (places,) = _places(Line("cost", [(1, 5), (10, 5), (100, 5), (1000, 5)]))
    steps = [right - left for (left, _), (right, _) in itertools.pairwise(places)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)


def test_on_a_linear_scale_equal_differences_have_equal_distances() -> None:
    (places,) = _places(Line("cost", [(1, 5), (2, 5), (3, 5), (4, 5)]), even=True)
    steps = [right - left for (left, _), (right, _) in itertools.pairwise(places)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)


def test_a_constant_is_a_level_line_and_a_double_is_twice_as_high() -> None:
    level, double = _places(Line("one", [(1, 5), (10, 5)]), Line("two", [(1, 10), (10, 10)]))
    assert level[0][1] == level[1][1]
    foot = 268.0
    assert foot - double[0][1] == pytest.approx(2 * (foot - level[0][1]), abs=0.3)


@pytest.mark.parametrize("most", [0.0, 0.03, 1.0, 7.3, 99.0, 100.0, 1234.0])
def test_a_scale_begins_at_zero_and_covers_all_points(most: float) -> None:
    marks = scale_of(most)
    assert marks[0] == 0
    assert marks[-1] >= most * 0.999
    assert 3 <= len(marks) <= 6


def test_names_at_the_ends_of_lines_do_not_cover_each_other() -> None:
    heights = apart([100.0, 101.0, 50.0, 102.0])
    between = sorted(heights)
    assert all(below - above >= 14 for above, below in itertools.pairwise(between))
    assert heights[2] == 50.0


def test_a_chart_without_points_has_a_note() -> None:
    drawn = picture("Rooms", "rooms", [Panel("CPU", [Line("gateway", [])])])
    assert "nothing was measured" in drawn


def test_every_chart_is_a_picture_with_all_its_lines() -> None:
    for axis in AXES:
        if axis.panels:
            root = ElementTree.fromstring(picture_of(a_run(), axis))
            assert len(root.findall(f"{_SVG}polyline")) == sum(len(panel.lines) for panel in axis.panels)


def test_the_table_of_an_axis_has_a_row_for_each_point_by_size() -> None:
    axis = next(axis for axis in AXES if axis.name == "replicas")
    rows = table(a_run(), axis).rows
    assert [row[:2] for row in rows[:4]] == [["push, everything", str(size)] for size in (1, 2, 3, 4)]
    assert {row[-1] for row in rows} == {"nothing"}


def test_the_short_table_compares_the_smallest_with_the_largest() -> None:
    rows = in_short(a_run(take=50.0), AXES).rows
    row = next(row for row in rows if row[1] == "Gateways' CPU a push, µs: everything")
    assert row == ["1 → 4 gateways", "Gateways' CPU a push, µs: everything", "100", "250", "2.50"]


def _places(*lines: Line, even: bool = False) -> list[list[tuple[float, float]]]:
    root = ElementTree.fromstring(picture("Title", "things", [Panel("CPU", lines)], even=even))
    found = root.findall(f"{_SVG}polyline")
    drawn = [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", one.attrib["points"])]
        for one in found
    ]
    return list(reversed(drawn))  # the first line is drawn last, above the others

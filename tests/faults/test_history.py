"""Histories for the linearizability checker say what was asked, shown and stored, and when."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from . import history
from .evidence import Asked, Entry, Evidence, Outcome, Shown
from .test_oracle import faithful_runs, few

pytestmark = pytest.mark.faults_short

ENDED = 100.0


def by_kind(evidence: Evidence) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for operation in history.operations(evidence, ENDED):
        found[operation["kind"]].append(operation)
    return found


@few
@given(faithful_runs())
def test_the_sends_of_a_faithful_run_make_up_each_log_that_is_read(run: Evidence) -> None:
    found = by_kind(run)
    assert len(found["read"]) == len({entry.stream for entry in run.entries})
    for read in found["read"]:
        sends = [one for one in found["send"] if one["key"] == read["key"] and one["seq"]]
        assert sorted(one["seq"] for one in sends) == list(range(1, len(read["ids"]) + 1))
        assert [one["id"] for one in sorted(sends, key=lambda one: one["seq"])] == read["ids"]
        sees = [one for one in found["see"] if one["key"] == read["key"]]
        assert all(read["ids"][one["seq"] - 1] == one["id"] for one in sees)
        assert len({one["seq"] for one in sees}) == len(sees)


SAID = Asked(
    "ana", 1, "chat.send", "ana", "lobby", "hi", Outcome.DONE, answer={"seq": 1}, asked_at=1, answered_at=2
)
ENTRY = Entry("chat:lobby", 1, "chat.message", {"room": "lobby", "user": "ana", "text": "hi"})


def test_a_request_returns_with_its_answer_and_an_event_before_the_end() -> None:
    event = Asked("depot", 1, "order.paid", "ana", "o-1", "", Outcome.DONE, asked_at=3, answered_at=4)
    said, paid = by_kind(Evidence([SAID, event], entries=[ENTRY]))["send"]
    assert (said["id"], said["seq"], said["call"], said["return"]) == ("lobby ana: hi", 1, 10**9, 2 * 10**9)
    assert (paid["id"], paid["seq"], paid["return"]) == ("o-1 paid", 0, round(ENDED * 1e9))


def test_an_unknown_outcome_has_no_return_and_a_refusal_is_left_out() -> None:
    unknown = replace(SAID, outcome=Outcome.UNKNOWN, answer={})
    refused = replace(SAID, number=2, token="no", outcome=Outcome.REFUSED, answer={})
    [send] = by_kind(Evidence([unknown, refused], entries=[ENTRY]))["send"]
    assert (send["seq"], send["return"]) == (1, None)


def test_an_answer_that_names_another_number_than_the_stored_one_is_kept() -> None:
    [send] = by_kind(Evidence([replace(SAID, answer={"seq": 7})], entries=[ENTRY]))["send"]
    assert send["seq"] == 7


def test_of_what_devices_were_shown_the_earliest_moment_counts_and_every_difference() -> None:
    other = {**ENTRY.data, "text": "ho"}
    shown = [
        Shown(device, "ben", "chat.message", "chat:lobby", 1, data, at)
        for device, data, at in (("ben-1", ENTRY.data, 5), ("ben-2", ENTRY.data, 3), ("ben-3", other, 9))
    ]
    sees = by_kind(Evidence([SAID], shown, entries=[ENTRY]))["see"]
    assert [(one["client"], one["id"], one["call"]) for one in sees] == [
        ("ben-2", "lobby ana: hi", 3 * 10**9),
        ("ben-3", "lobby ana: ho", 9 * 10**9),
    ]


def test_a_history_is_a_file_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "histories" / "one.jsonl"
    history.write(Evidence([SAID], entries=[ENTRY]), ENDED, path)
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["send", "read"]

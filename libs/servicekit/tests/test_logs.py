"""Logs: what others choose cannot steer them."""

import json
import os
import pty
import re
import subprocess
import sys
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.servicekit.runtime.logs import VALUE_LETTERS, bound_values, show_controls
from towpath.testkit.processes import Processes

HOSTILE: Final = (
    "\x1b[2J\x1b]0;owned\x07", "a\nb", "a\r\x1b[1A", '{"event":"serving"}', "\u202egnp.exe", "a\u2028b",
    "zero\u200bwidth", "\udc80", "x" * 100_000, "%s %d {0}", "\x00", "\u061c\u2066",
)  # fmt: skip
PROGRAM: Final = f"""
import logging
import structlog
from towpath.servicekit.runtime.logs import configure
from towpath.servicekit.runtime.settings import load, TelemetrySettings
configure("example", load(TelemetrySettings))
log = structlog.get_logger("example")
for value in {HOSTILE!r}:
    log.warning("refused", key=value, details={{"field": value, value: 1}})
    logging.getLogger("a.library").error("failed: %s", value)
    try:
        raise RuntimeError(value)
    except RuntimeError:
        log.exception("crashed")
print("end")
"""


async def output(processes: Processes, log_format: str) -> str:
    process = processes.launch(sys.executable, "-c", PROGRAM, name=log_format, log_format=log_format)
    assert await process.ended() == 0
    return process.output


async def test_each_event_is_one_json_object_in_one_line_whatever_its_values(processes: Processes) -> None:
    *lines, end = (await output(processes, "json")).splitlines()
    assert end == "end"
    events = [json.loads(line) for line in lines]
    assert len(events) == 3 * len(HOSTILE)
    assert {event["service"] for event in events} == {"example"}
    assert [event["event"] for event in events[::3]] == ["refused"] * len(HOSTILE)
    # Spaces of every kind separate lines for some reader.
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert max(map(len, lines)) < 8 * VALUE_LETTERS


async def test_a_terminal_is_shown_no_control_or_bidi_letter_of_a_value(processes: Processes) -> None:
    text = await output(processes, "console")
    assert text.endswith("end\n")
    assert all(letter.isprintable() for letter in text.replace("\n", ""))
    # A value begins no line: only events, and the lines of tracebacks, do.
    starts = [line for line in text.splitlines() if re.match(r"\d{4}-", line)]
    assert len(starts) == 3 * len(HOSTILE)
    assert not any(line.startswith(("b", '{"event"')) for line in text.splitlines())
    assert r"\x1b[2J" in text
    assert r"\u202egnp.exe" in text


FLOOD: Final = """
import structlog
from towpath.servicekit.runtime.logs import configure
from towpath.servicekit.runtime.settings import load, TelemetrySettings
configure("example", load(TelemetrySettings))
for number in range(500):
    structlog.get_logger("example").warning("refused", number=number)
"""


async def test_a_flood_of_one_event_is_a_few_lines_and_a_count(processes: Processes) -> None:
    process = processes.launch(sys.executable, "-c", FLOOD, log_burst=7)
    assert await process.ended() == 0
    *lines, last = [json.loads(line) for line in process.output.splitlines()]
    assert [line["number"] for line in lines] == list(range(7))
    assert (last["event"], last["of"], last["count"]) == ("lines_left_out", "refused", 493)


@pytest.mark.parametrize(("form", "is_json"), [("auto", False), ("json", True), ("console", False)])
def test_a_terminal_gets_text_unless_json_is_chosen(form: str, is_json: bool) -> None:
    reader, terminal = pty.openpty()
    program = "import structlog\n" + FLOOD.replace("range(500)", "range(1)")
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={"TOWPATH_LOG_FORMAT": form, "PATH": ""},
        stdin=subprocess.DEVNULL,
        stderr=terminal,
        timeout=60,
    )
    os.close(terminal)
    line = os.read(reader, 65536).decode()
    os.close(reader)
    assert ran.returncode == 0
    assert line.startswith("{") == is_json
    assert ("\x1b[" in line) == (not is_json)  # colours


async def test_elsewhere_than_on_a_terminal_each_line_is_json(processes: Processes) -> None:
    process = processes.launch(sys.executable, "-c", FLOOD, log_format="auto", log_burst=1)
    assert await process.ended() == 0
    assert all(json.loads(line) for line in process.output.splitlines())


values = st.text(max_size=2 * VALUE_LETTERS) | st.integers() | st.lists(st.text(), max_size=400)


@given(st.dictionaries(st.sampled_from(["event", "key", "user", "details"]), values))
def test_no_value_is_longer_than_the_bound_or_controls_anything(event: dict[str, Any]) -> None:
    before = dict(event)
    shown = show_controls(None, "", bound_values(None, "", event))
    assert shown.keys() == before.keys()
    for name, value in shown.items():
        if isinstance(value, str):
            assert value.isprintable()
            # Every letter may become an escape of ten.
            assert len(value) <= 10 * VALUE_LETTERS + 30
        else:
            assert value == before[name]


@pytest.mark.parametrize("length", [VALUE_LETTERS, VALUE_LETTERS + 1])
def test_a_value_at_the_bound_is_whole_and_one_past_it_says_its_length(length: int) -> None:
    [value] = bound_values(None, "", {"key": "x" * length}).values()
    assert value == (
        "x" * length if length == VALUE_LETTERS else f"{'x' * VALUE_LETTERS}… ({length} letters)"
    )

"""Every state of the page: a picture of each, and controls that stay in reach at every width.

Renew the kept pictures after a change that is meant, and look at them before they are committed:

    TOWPATH_WRITE_SCREENSHOTS=1 pytest tests/e2e/test_page_states.py
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser

from towpath.testkit.witness import unusable_controls

from .page_panels import HOSTILE_PANELS, PANELS
from .page_states import HOSTILE, LONGER, STATES, WIDTHS, State, restyled, settled, shown
from .pictures import Pictures, path_of

RESULTS = Path(__file__).parents[2] / "test-results"
#: The part of a place that a state may differ in: other fonts, other versions of the browser.
MOST_DIFFERENT = 0.4
#: Browser windows at a time.
AT_ONCE = 3


async def each(states: dict[str, State], visit: Callable[[str, State], Awaitable[None]]) -> None:
    """Visit the states, some at a time."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, state: State) -> None:
        async with turn:
            await visit(name, state)

    async with asyncio.TaskGroup() as tasks:
        for name, state in states.items():
            tasks.create_task(one(name, state))


@pytest.mark.timeout(240)
async def test_every_state_of_the_page_looks_like_its_picture(browser: Browser) -> None:
    RESULTS.mkdir(exist_ok=True)
    pictures = Pictures(await browser.new_page())
    different: list[str] = []

    async def look(name: str, state: State) -> None:
        async with shown(browser, state) as (visitor, _):
            png = await visitor.page.screenshot()
        (RESULTS / f"state-{path_of(name).stem}.png").write_bytes(png)
        small, kept = await pictures.small(png), path_of(name)
        if os.environ.get("TOWPATH_WRITE_SCREENSHOTS") == "1":
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(small)
        difference = await pictures.difference(kept.read_bytes(), small)
        if difference > MOST_DIFFERENT:
            different.append(f"{name}: {difference:.0%} of it is another than in {kept.name}")

    await each(STATES | PANELS, look)
    assert different == []


@pytest.mark.timeout(240)
async def test_every_control_is_in_reach_at_every_width_whatever_the_lengths(browser: Browser) -> None:
    RESULTS.mkdir(exist_ok=True)
    faults: list[str] = []

    async def look(name: str, state: State) -> None:
        async with shown(browser, state, me=LONGER) as (visitor, _):
            for width, height in WIDTHS:
                await visitor.page.set_viewport_size({"width": width, "height": height})
                await settled(visitor)
                found = await unusable_controls(visitor.page)
                if found:
                    await visitor.page.screenshot(path=RESULTS / f"reach-{path_of(name).stem}-{width}.png")
                faults.extend(f"{name}, {width}: {fault}" for fault in found)

    await each(HOSTILE | HOSTILE_PANELS, look)
    assert faults == []


#: A fault of the kind that was there, in the state that shows it, and a part of what is said about it.
PLANTED_FAULTS = {
    "a title pushes the buttons away": ("a room", ".heading { min-width: max-content }", "show-members"),
    "a name pushes the deeds away": (
        "members",
        ".members li { flex-wrap: nowrap } .members .name { white-space: nowrap; min-width: max-content }",
        "sideways in",
    ),
    "notices cover the title": ("notices", ".notices { position: fixed; top: 54px; left: 0 }", "covers"),
    "words lie over a field": ("the menu", ".setting { grid-template-columns: 20px 1fr }", "lies over"),
    "a list does not scroll": (
        "many rooms",
        ".sidebar, .rooms { overflow: hidden !important }",
        "cut off by",
    ),
}


@pytest.mark.timeout(240)
async def test_a_control_that_is_out_of_reach_is_named(browser: Browser) -> None:
    missed: list[str] = []

    async def look(fault: str, state: State) -> None:
        _, style, named = PLANTED_FAULTS[fault]
        async with shown(browser, state, me=LONGER, size=WIDTHS[1]) as (visitor, _):
            await restyled(visitor, style)
            await settled(visitor)
            found = await unusable_controls(visitor.page)
        if not any(named in said for said in found):
            missed.append(f"{fault}: {found}")

    await each({fault: HOSTILE[state] for fault, (state, _, _) in PLANTED_FAULTS.items()}, look)
    assert missed == []


#: Changes of a picture, and whether it is another state then.
CHANGES = {
    "another font": ("body { font-family: serif !important }", False),
    "a wider font": ("body { letter-spacing: 0.02em !important }", False),
    "no backend": (".panels { display: none }", True),
    "no list of rooms": (".sidebar > * { visibility: hidden }", True),
    "no messages": (".log > ol { visibility: hidden }", True),
    "a bar that covers": (".notices { display: block !important; height: 90px; background: red }", True),
    "other colours": (":root { color-scheme: dark !important }", True),
}


async def test_a_picture_is_another_one_for_another_state_and_not_for_another_font(browser: Browser) -> None:
    RESULTS.mkdir(exist_ok=True)
    pictures = Pictures(await browser.new_page())
    differences: dict[str, float] = {}
    async with shown(browser, STATES["a conversation"]) as (visitor, _):
        usual = await pictures.small(await visitor.page.screenshot())
        for change, (style, _) in CHANGES.items():
            await restyled(visitor, style)
            await settled(visitor)
            changed = await pictures.small(await visitor.page.screenshot())
            differences[change] = await pictures.difference(usual, changed)
    (RESULTS / "state-differences.txt").write_text(f"{differences}\n")
    is_another = {change: difference > MOST_DIFFERENT for change, difference in differences.items()}
    assert is_another == {change: expected for change, (_, expected) in CHANGES.items()}, differences

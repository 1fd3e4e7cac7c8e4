"""Sees what a page does that it should not: runs a stranger's script, asks a stranger's server, breaks its policy."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import ConsoleMessage, Dialog, Frame, Page
from yarl import URL

#: Before any script of the page: keeps what the browser refused under the page's policy.
_WATCH_POLICY = """
window.policyViolations = [];
document.addEventListener("securitypolicyviolation", (event) =>
    window.policyViolations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`));
"""
#: Elements that the page never makes: each would come from a text.
_FOREIGN = """() => {
    // A link in a text: it is what it says, and the window behind it knows nothing of this one.
    const isHarmless = (element) => element.matches('a.link[target="_blank"][rel="noopener noreferrer"]')
        && element.childElementCount === 0 && /^https?:[/][/][!-~]+$/i.test(element.textContent)
        && element.getAttribute("href") === element.textContent;
    return [...document.querySelectorAll(
    "body script, iframe, frame, object, embed, img, video, audio, base, style, template, math, "
    + "meta[http-equiv=refresh], [onload], [onerror], [onclick], [onmouseover], a:not(.skip), form[action], "
    + "#app link")]
    .filter((element) => !isHarmless(element))
    .map((element) => element.outerHTML.slice(0, 200));
}"""
_POLICY_WORDS = ("Content Security Policy", "Trusted Type", "Refused to")


class Witness:
    """Watches one page, from before it is loaded.

    Attributes:
        page: The page.
        seen: The events so far that should not have been, one line each.
    """

    def __init__(self, page: Page, hosts: Collection[str]) -> None:
        self.page = page
        self.seen: list[str] = []
        self._hosts = hosts
        page.on("request", lambda request: self._asked(request.url))
        page.on("websocket", lambda socket: self._asked(socket.url))
        page.on("console", self._wrote)
        page.on("popup", lambda popup: self.seen.append(f"a window: {popup.url}"))
        page.on("frameattached", lambda frame: self.seen.append(f"a frame: {frame.url}"))
        page.on("framenavigated", self._moved)
        page.on("dialog", self._asks)

    @classmethod
    @asynccontextmanager
    async def watch(cls, page: Page, *, hosts: Collection[str]) -> AsyncIterator["Witness"]:
        """From before the page is loaded.

        Args:
            hosts: ``host:port`` of each server that the page may ask.
        """
        witness = cls(page, hosts)
        await page.add_init_script(_WATCH_POLICY)
        yield witness

    async def findings(self) -> list[str]:
        """All that should not have happened, the elements that should not be there included."""
        ran = await self.page.evaluate("window.hostile === undefined ? [] : ['a script ran']")
        violations: list[str] = await self.page.evaluate("window.policyViolations")
        foreign: list[str] = await self.page.evaluate(_FOREIGN)
        return [*self.seen, *ran, *violations, *foreign]

    def _asked(self, url: str) -> None:
        address = URL(url)
        if f"{address.host}:{address.port}" not in self._hosts:
            self.seen.append(f"a request: {url[:200]}")

    def _wrote(self, message: ConsoleMessage) -> None:
        if any(words in message.text for words in _POLICY_WORDS):
            self.seen.append(f"the console: {message.text[:300]}")

    def _moved(self, frame: Frame) -> None:
        address = URL(frame.url)
        if address.scheme != "about" and f"{address.host}:{address.port}" not in self._hosts:
            self.seen.append(f"a move: {frame.url[:200]}")

    async def _asks(self, dialog: Dialog) -> None:
        self.seen.append(f"a dialog: {dialog.message[:100]}")
        await dialog.dismiss()


async def layout_faults(page: Page) -> list[str]:
    """Where the layout is broken: sideways scrolling, boxes outside of the window, controls that are covered."""
    found: Any = await page.evaluate(_LAYOUT, "#app *")
    return [str(fault) for fault in found]


async def layout_faults_of_each(page: Page, selector: str, *, changes: str) -> list[str]:
    """The same after a click on each element of ``selector`` in turn, in the part of the page that it ``changes``."""
    found: Any = await page.evaluate(_EACH.replace("LAYOUT", _LAYOUT), [selector, changes])
    return [str(fault) for fault in found]


async def unusable_controls(page: Page) -> list[str]:
    """Controls that a person cannot get at, and texts that lie over each other; in the open dialog, if there is one.

    A control may have to be scrolled to, up and down. It must be within the window then, and not be covered. It
    must not be in a part of the page that only a program can scroll.
    """
    found: Any = await page.evaluate(_UNUSABLE)
    return [str(fault) for fault in found]


_UNUSABLE = """() => {
    const faults = [];
    const name = (element) => `${element.tagName.toLowerCase()}.${element.className} `
        + `${element.dataset?.testid?.slice(0, 30) ?? ""} ${(element.textContent ?? "").slice(0, 30)}`;
    const scope = document.querySelector("dialog[open]") ?? document.getElementById("app");
    const isShown = (element) => element.checkVisibility({ visibilityProperty: true })
        && !element.closest(".unseen, .skip, option, datalist") && element.getClientRects().length > 0;
    const CONTROLS = "button, input, select, textarea, summary, a[href], [role=option]";
    const controls = [...scope.querySelectorAll(CONTROLS)].filter(isShown);
    const above = (element) => {
        const found = [];
        for (let at = element.parentElement; at !== null; at = at.parentElement) found.push(at);
        return found;
    };
    const places = new Map([...document.querySelectorAll("*")].filter((element) => element.scrollTop > 0)
        .map((element) => [element, element.scrollTop]));
    const restore = (element) => {
        for (const parent of above(element)) [parent.scrollTop, parent.scrollLeft] = [places.get(parent) ?? 0, 0];
    };
    for (const control of controls) {
        control.scrollIntoView({ block: "nearest", inline: "nearest" });
        for (const parent of above(control)) {
            if (parent.scrollLeft !== 0) faults.push(`sideways in ${name(parent)}: ${name(control)}`);
            const { overflowY } = getComputedStyle(parent);
            const byHand = ["auto", "scroll"].includes(overflowY) || parent === document.documentElement;
            if (!byHand && parent.scrollTop !== (places.get(parent) ?? 0))
                faults.push(`cut off by ${name(parent)}: ${name(control)}`);
        }
        // A link over several lines has a box for each.
        const lines = [...control.getClientRects()];
        const inside = ({ top, bottom }) => top >= -1 && bottom <= innerHeight + 1;
        const box = lines.find(inside) ?? lines[0];
        if (box.left < -1 || box.right > innerWidth + 1) faults.push(`outside of the window: ${name(control)}`);
        if (box.height < innerHeight && (box.top < -1 || box.bottom > innerHeight + 1))
            faults.push(`above or below the window: ${name(control)}`);
        const at = ({ left, top, width, height }) =>
            document.elementFromPoint(left + width / 2, Math.min(top + height / 2, innerHeight - 2));
        const hit = at(box);
        if (!lines.some((line) => control.contains(at(line))))
            faults.push(`${hit ? name(hit) : "nothing"} covers ${name(control)}`);
        restore(control);
    }
    // Each line of a text, where its letters are: they may reach out of the box of their element.
    const linesOf = (element) => {
        if (element.matches("input, select, textarea, .avatar")) return [...element.getClientRects()];
        const range = document.createRange();
        return [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim() !== "")
            .flatMap((node) => (range.selectNodeContents(node), [...range.getClientRects()]));
    };
    const leaves = [...scope.querySelectorAll("*")].filter((element) => isShown(element)
        && !element.closest("svg, option") && linesOf(element).length > 0);
    const visible = (element) => linesOf(element).map((line) => {
        let { left, top, right, bottom } = line;
        for (const parent of [element, ...above(element)]) {
            const style = getComputedStyle(parent);
            if (style.overflowX === "visible" && style.overflowY === "visible") continue;
            const clip = parent.getBoundingClientRect();
            [left, top] = [Math.max(left, clip.left), Math.max(top, clip.top)];
            [right, bottom] = [Math.min(right, clip.right), Math.min(bottom, clip.bottom)];
        }
        return { element, left, top, right, bottom };
    });
    const isLarge = ({ left, top, right, bottom }) => right - left > 4 && bottom - top > 4;
    const boxes = leaves.flatMap(visible).filter(isLarge);
    for (const [at, one] of boxes.entries()) for (const other of boxes.slice(at + 1)) {
        if (one.element.contains(other.element) || other.element.contains(one.element)) continue;
        if (other.element.closest(".jump") || one.element.closest(".jump")) continue;
        const width = Math.min(one.right, other.right) - Math.max(one.left, other.left);
        const height = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
        if (width > 3 && height > 5) faults.push(`${name(one.element)} lies over ${name(other.element)}`);
    }
    const root = document.documentElement;
    if (root.scrollWidth > innerWidth) faults.push(`the page is ${root.scrollWidth} wide`);
    for (const element of scope.querySelectorAll("*")) {
        if (!isShown(element) || element.matches("textarea, input")) continue;
        const style = getComputedStyle(element);
        if (["auto", "scroll"].includes(style.overflowX) && element.scrollWidth > element.clientWidth + 1)
            faults.push(`scrolls sideways: ${name(element)}`);
    }
    return [...new Set(faults)];
}"""
_EACH = """async ([selector, changes]) => {
    const layout = LAYOUT;
    const faults = [];
    for (const element of document.querySelectorAll(selector)) {
        element.click();
        const isLoading = () => document.querySelector(`${changes} .empty`)?.textContent.endsWith("…");
        for (let frame = 0; frame < 2 || (frame < 300 && isLoading()); frame++)
            await new Promise(requestAnimationFrame);
        faults.push(...layout(`${changes} *`).map((fault) => `${element.textContent.slice(0, 40)}: ${fault}`));
    }
    return faults;
}"""
_LAYOUT = """(scope) => {
    const faults = [];
    const name = (element) => `${element.tagName.toLowerCase()}.${element.className} `
        + `${element.dataset?.testid?.slice(0, 40) ?? ""} ${(element.textContent ?? "").slice(0, 30)}`;
    const root = document.documentElement;
    if (root.scrollWidth > innerWidth) faults.push(`the page is ${root.scrollWidth} wide`);
    if (root.scrollHeight > innerHeight) faults.push(`the page is ${root.scrollHeight} high`);
    const clips = (element) => getComputedStyle(element).overflowX !== "visible";
    const isClipped = (element) => {
        let at = element.parentElement;
        while (at !== null && at !== root && !clips(at)) at = at.parentElement;
        return at !== null && at !== root;
    };
    for (const element of document.querySelectorAll(scope)) {
        const box = element.getBoundingClientRect();
        if (box.width === 0 || element.closest(".unseen, svg, option, datalist")) continue;
        const isWider = element.scrollWidth > element.clientWidth + 1 && element.tagName !== "TEXTAREA";
        if (isWider && ["auto", "scroll"].includes(getComputedStyle(element).overflowX))
            faults.push(`scrolls sideways: ${name(element)}`);
        if ((box.left < -1 || box.right > innerWidth + 1) && !isClipped(element))
            faults.push(`outside of the window: ${name(element)}`);
    }
    // Visible parts of the frame of the page that must stay usable.
    const isDialogOpen = document.querySelector("dialog[open]") !== null;
    const controls = isDialogOpen
        ? "dialog[open] header button"
        : ".bar button, #composer, [data-testid=send-message], .tabs button";
    for (const control of document.querySelectorAll(controls)) {
        const box = control.getBoundingClientRect();
        if (box.width === 0) continue;
        const hit = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
        if (!control.contains(hit)) faults.push(`${hit ? name(hit) : "nothing"} covers ${name(control)}`);
    }
    // One row below the other.
    for (const list of document.querySelectorAll(".log > ol, .rooms, .invitations, .members, .order-list")) {
        let bottom = -Infinity;
        for (const row of list.children) {
            const box = row.getBoundingClientRect();
            if (box.height > 0 && box.top < bottom - 1) faults.push(`overlaps the row above: ${name(row)}`);
            bottom = box.bottom;
        }
    }
    return [...new Set(faults)];
}"""

"""Pictures of states of the page: small ones that are kept, and whether a state still looks like its own.

The mean colours of cells of 20 by 20 pixels are compared, and the place counts where most of them differ, of 160 by
160 pixels: a panel or a control that is gone, covered or elsewhere changes most of a place, and letters of another
font change some of every place. A comparison by pixels would fail wherever the fonts are others, and one of the boxes
of elements would not see a colour or a cover. The limit was measured (``test_page_states.py``): with other fonts, and
with planted faults.
"""

import base64
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Page

FOLDER: Final = Path(__file__).parent / "pictures"
#: How much smaller a kept picture is.
SCALE: Final = 0.4
#: Of a kept picture; 20 pixels of the page.
CELL: Final = 8
#: Cells in a row and in a column of a place.
PLACE: Final = 8
#: The most that the mean colour of a cell may differ, of 255, before the cell is another one.
SAME_COLOUR: Final = 14

_SHRINK: Final = """async ([picture, scale]) => {
    const image = await createImageBitmap(await (await fetch(picture)).blob());
    const canvas = new OffscreenCanvas(Math.round(image.width * scale), Math.round(image.height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type: "image/webp", quality: 0.7 });
    const bytes = new Uint8Array(await blob.arrayBuffer());
    return bytes.toBase64?.() ?? btoa(String.fromCharCode(...bytes));
}"""
_DIFFER: Final = """async ([one, other, cell, place, same]) => {
    const cells = async (picture) => {
        const image = await createImageBitmap(await (await fetch(picture)).blob());
        const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
        context.drawImage(image, 0, 0);
        const { data } = context.getImageData(0, 0, image.width, image.height);
        const [columns, rows] = [Math.ceil(image.width / cell), Math.ceil(image.height / cell)];
        const sums = Array.from({ length: columns * rows }, () => [0, 0, 0, 0]);
        for (let y = 0; y < image.height; y++) for (let x = 0; x < image.width; x++) {
            const sum = sums[Math.floor(y / cell) * columns + Math.floor(x / cell)];
            for (let channel = 0; channel < 3; channel++) sum[channel] += data[(y * image.width + x) * 4 + channel];
            sum[3] += 1;
        }
        return { columns, rows, means: sums.map(([r, g, b, n]) => [r / n, g / n, b / n]) };
    };
    const [a, b] = [await cells(one), await cells(other)];
    if (a.columns !== b.columns || a.rows !== b.rows) return 1;
    const differs = (left, right) => left.some((channel, at) => Math.abs(channel - right[at]) > same);
    const isOther = a.means.map((mean, at) => differs(mean, b.means[at]));
    let worst = 0;
    for (let top = 0; top + place <= a.rows; top++) for (let left = 0; left + place <= a.columns; left++) {
        let count = 0;
        for (let y = top; y < top + place; y++) for (let x = left; x < left + place; x++)
            count += isOther[y * a.columns + x];
        worst = Math.max(worst, count);
    }
    return worst / place ** 2;
}"""


class Pictures:
    """Makes and compares pictures, in a browser page of its own."""

    def __init__(self, scratch: Page) -> None:
        self._scratch = scratch

    async def small(self, png: bytes) -> bytes:
        """A screenshot as it is kept (WebP)."""
        shrunk: str = await self._scratch.evaluate(_SHRINK, [_data(png, "png"), SCALE])
        return base64.b64decode(shrunk)

    async def difference(self, one: bytes, other: bytes) -> float:
        """How much two kept pictures differ where they do most: a part of the cells; 1.0 if their sizes differ."""
        found: Any = await self._scratch.evaluate(
            _DIFFER, [_data(one, "webp"), _data(other, "webp"), CELL, PLACE, SAME_COLOUR]
        )
        return float(found)


def path_of(state: str) -> Path:
    """Where the picture of a state is kept."""
    return FOLDER / f"{state.replace(',', '').replace(' ', '-')}.webp"


def _data(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"

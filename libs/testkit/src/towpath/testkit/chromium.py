"""A browser for tests of the page."""

from pathlib import Path

from towpath.tools.packages import CHROMIUM, LIBATOMIC, find_or_install


def chromium() -> Path:
    """The path of Chromium, after installing Debian's package where it must be and may be.

    Raises:
        ProgramMissing: It is not to be had, or what Playwright drives it with.
    """
    find_or_install(LIBATOMIC)
    return find_or_install(CHROMIUM)

"""A page for programs that serve one, where the test is not about the page."""

from pathlib import Path


def bare_page(folder: Path) -> Path:
    """Make ``folder`` with all that a built page must have, for ``TOWPATH_WEB_ROOT``; returns it."""
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("the page has tests of its own")
    (folder / "content-security-policy.txt").write_text("default-src 'none'\n")
    return folder

"""Memory that was needed once does not stay for ever."""

from pathlib import Path

from towpath.servicekit.runtime.memory import give_back


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_freed_memory_between_lasting_objects_is_returned() -> None:
    kept = [bytes(4000) for _ in range(40_000)]
    full = resident()
    del kept[::100]  # holes of a page, which are not returned automatically
    rest = kept[::100]
    kept.clear()
    await give_back()
    assert resident() < full - 80 * 1024 * 1024
    assert len(rest) == 396

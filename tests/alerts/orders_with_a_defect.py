"""``towpath-orders`` with a defect: its database probe raises an error that no code expects."""

from towpath.orders.__main__ import main
from towpath.servicekit.runtime import loops
from towpath.servicekit.storage.database import Database


async def _fails(self: Database, limit: float) -> None:
    raise RuntimeError("a defect, for a trial of alerts")


if __name__ == "__main__":
    loops.LONGEST_PAUSE = 1.0  # type: ignore[misc]  # 30 s, as much faster as the trial's Prometheus
    Database.probe = _fails  # type: ignore[method-assign]  # the defect
    main()

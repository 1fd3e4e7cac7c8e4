"""The bounds of waits and memory that honest users are promised during an attack."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one trial.

    Attributes:
        worst: Seconds that one honest user of the same gateway waits at most, for an answer or a push, or twice the
            longest wait of the control run where that is more: then the machine is busy with something else.
        p99: Seconds for 99 of 100 of them, or twice the control where that is more.
        others: Seconds for 99 of 100 on another gateway, or twice the control where that is more: below it, on two
            shared cores, a scheduler's turn counts as much as the attack.
        is_on_both: Both gateways are attacked.
        gateway, service: MiB that a program may hold over its rest.
        live: Seconds for ``/health/live``.
        back: Seconds after the attack in which memory is back.
        may_end: Programs that the trial stops itself.
    """

    worst: float = 0.25
    p99: float = 0.1
    others: float = 0.05
    gateway: float = 64.0
    service: float = 128.0
    live: float = 1.0
    back: float = 30.0
    may_end: Collection[str] = ()
    is_on_both: bool = False


ONE_CONNECTION: Final = Bounds()
#: Ten hostile users with ten connections each.
MANY_CONNECTIONS: Final = Bounds(worst=1.0, p99=1.0)
#: Hundreds of hostile users or connections, or hostile messages for both gateways: others wait as beside a crowd.
HUNDREDS: Final = Bounds(worst=1.0, p99=1.0, others=0.25)
CROWD: Final = Bounds(p99=0.25, others=0.25, is_on_both=True)
#: Beside other tests on a busy machine only seconds are distinguishable, as they were without limits.
BUSY: Final = Bounds(worst=3.0, p99=2.0, others=2.0, live=3.0)

"""Acks: a delivery is acked once, when the last of its requests is finished.

The requests of one delivery finish in different units of work: heavy reads and retried commands run beside the main
path. Nothing else in this folder acks; see guarantee 1 in :mod:`towpath.servicekit.handling.dispatcher`.
"""

from towpath.servicekit.broker.interface import Delivery


class Acks:
    """The deliveries that are not acked yet, with the number of their unfinished requests."""

    def __init__(self) -> None:
        self._unfinished: dict[Delivery, int] = {}  # By identity: two deliveries may have the same content.

    def hold(self, delivery: Delivery, requests: int) -> None:
        """Ack ``delivery`` after as many calls of :meth:`release`; at once if there is nothing to handle."""
        if requests:
            self._unfinished[delivery] = requests
        else:
            delivery.ack()

    def release(self, delivery: Delivery) -> None:
        """One of its requests is finished: its effects are committed, and everything it causes is confirmed."""
        unfinished = self._unfinished[delivery] - 1
        if unfinished:
            self._unfinished[delivery] = unfinished
        else:
            del self._unfinished[delivery]
            # This one and no earlier one: `basic.ack` is sent without `multiple`, as deliveries finish in any order.
            delivery.ack()

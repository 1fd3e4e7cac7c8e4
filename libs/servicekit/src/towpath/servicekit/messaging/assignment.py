"""Sharing: assigns the queues of a service to its replicas. A pure function.

Guarantees:

* Each of ``n`` replicas gets ⌊q/n⌋ or ⌈q/n⌉ of ``q`` queues.
* As few queues as possible move; none, if the claims are fair already.
* Replicas with the same claims compute the same result.
"""

from collections.abc import Collection, Mapping, Sequence


def share(
    queues: Sequence[str], claims: Mapping[str, Collection[str]], *, surplus_last: bool = False
) -> dict[str, str]:
    """Divide ``queues`` between the replicas.

    Args:
        queues: All of them, in a fixed order.
        claims: Replica → the queues that it consumes now. A queue that several replicas claim counts for the first.
        surplus_last: If ``q/n`` leaves a remainder, and nothing else decides, assign it to the last replicas instead
        of the first. So two kinds of queues do not burden the same replicas.

    Returns:
        Queue → replica.
    """
    replicas = sorted(claims, reverse=surplus_last)
    if not replicas:
        return {}
    held: dict[str, list[str]] = {replica: [] for replica in replicas}
    for queue in queues:
        if (holder := next((one for one in sorted(claims) if queue in claims[one]), None)) is not None:
            held[holder].append(queue)
    # First each replica keeps what it has, up to its share; then what is left goes to the replicas with most room.
    least, rest = divmod(len(queues), len(replicas))
    # The replica with the most queues keeps the most: fewer queues move.
    by_holdings = sorted(replicas, key=lambda one: -len(held[one]))
    room = {one: least + (place < rest) for place, one in enumerate(by_holdings)}
    shares = {one: held[one][: room[one]] for one in replicas}
    taken = {queue: one for one, kept in shares.items() for queue in kept}
    for queue in queues:
        if queue not in taken:
            to = min(replicas, key=lambda one: len(shares[one]) - room[one])
            shares[to].append(queue)
            taken[queue] = to
    return taken

"""Sharing: which replica of a service is to consume which queue. A pure function.

Guarantees:

* Of ``q`` queues each of ``n`` replicas gets ⌊q/n⌋ or ⌈q/n⌉.
* As few queues as possible change hands; none, where the claims are fair already.
* Replicas that know the same claims come to the same result.
"""

from collections.abc import Collection, Mapping, Sequence


def share(
    queues: Sequence[str], claims: Mapping[str, Collection[str]], *, surplus_last: bool = False
) -> dict[str, str]:
    """Divide ``queues`` between the replicas.

    Args:
        queues: All of them, in a fixed order.
        claims: Replica → the queues that it consumes now. A queue that several claim counts for the first of them.
        surplus_last: Where ``q/n`` leaves a rest, and nothing else decides, it goes to the last replicas instead of
            the first. So two kinds of queues do not burden the same ones.

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
    least, rest = divmod(len(queues), len(replicas))
    # Who holds most keeps most: fewer queues move.
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

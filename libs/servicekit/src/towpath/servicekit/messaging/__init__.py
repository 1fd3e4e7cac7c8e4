"""Messages between programs: publish in batches, consume in order, share queues between replicas, park failures.

Guarantees: what is published is confirmed or reported; each queue has one consuming replica at a time; a message that
cannot be handled goes to a retry queue or the dead queue, never away.

May be imported by: ``storage`` and everything above it. Imports: ``broker``, ``runtime``.
"""

"""The data of a service: its database and the tables that every service has (inbox, outbox, streams, group numbers).

Guarantees: one transaction holds the effects of a request, its stored outcome and its stream entries; streams have no
gaps; every table has a retention.

May be imported by: ``handling`` and everything above it. Imports: ``messaging``, ``broker``, ``runtime``.
"""

"""From delivery to ack: what a batch goes through. Read ``dispatcher`` first; everything else serves it.

May be imported by: ``service`` and ``serving``. Imports: ``storage``, ``messaging``, ``broker``, ``runtime``.
"""

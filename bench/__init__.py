"""``make bench``: Towpath beside its peers, under the same work, in turns.

:mod:`bench.generator` makes the load, :mod:`bench.systems` starts what is measured, :mod:`bench.works` says what is
load and counts, :mod:`bench.report` writes the page.
"""

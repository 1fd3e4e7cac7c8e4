"""The load generator: a process of its own, with clients of a C library (picows), so that it is not the limit.

It runs one *script* (:mod:`bench.generator.scripts`) and stops where the runner wants to look: see
:mod:`bench.generator.control`.
"""

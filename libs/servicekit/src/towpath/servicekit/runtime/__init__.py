"""The base of every program: start and stop, settings, logs, metrics, health.

Guarantees: an unusable setting ends the program with a line that names it; every background loop outlives unexpected
errors or ends the program; a stop has a time limit.

May be imported by: everything. Imports nothing of the kit.
"""

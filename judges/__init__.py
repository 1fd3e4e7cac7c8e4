"""Judges: suites that others wrote, run against the parts of Towpath; ``make judges``. Not shipped."""

"""Property tests judge what happens, not how fast: the machine may be busy with something else."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

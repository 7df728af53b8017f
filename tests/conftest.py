"""Shared settings: on a shared machine no test may fail because a moment was slow."""

from hypothesis import settings

settings.register_profile("handful", deadline=None)
settings.load_profile("handful")

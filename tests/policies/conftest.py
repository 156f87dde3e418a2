"""Whole books are drawn here: a busy machine takes long for them, which is no fault of theirs."""

from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

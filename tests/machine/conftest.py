"""Settings for generated tests: how long an example takes says nothing on a loaded machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("machine")

"""What every test runs under; the guards are a plugin so that they can be tested themselves."""

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.programs.runs", "tests.posix.cpython", "tests.posix.place")

pytest_plugins = ["tests.guards"]

# No deadline for an example: it would depend on the machine's load.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
settings.register_profile("default", max_examples=200, stateful_step_count=25)
settings.register_profile("long", max_examples=20_000, stateful_step_count=50)
settings.load_profile("default")

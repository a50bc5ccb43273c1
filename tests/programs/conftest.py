"""What differs between the two places is shown."""

import pytest

pytest.register_assert_rewrite("tests.programs.runs")

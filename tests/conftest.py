"""Every test fails on an error in the log that it did not announce."""

import pytest


@pytest.fixture(autouse=True)
def _strict_log(no_unexpected_errors: None) -> None:
    """See `beamish.testing.plugin`."""

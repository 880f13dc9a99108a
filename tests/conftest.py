"""Every test fails on an error in the log that it did not announce."""

import hypothesis
import pytest

# on a busy machine an example may take any time; what must be fast is measured elsewhere
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _strict_log(no_unexpected_errors: None) -> None:
    """See `beamish.testing.plugin`."""

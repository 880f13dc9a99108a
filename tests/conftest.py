"""Every test fails on an error in the log that it did not announce, and may wait for anything that happens in its loop."""

from collections.abc import Callable

import hypothesis
import pytest
from tests.watched import WatchedLoop

# on a busy machine an example may take any time; what must be fast is measured elsewhere
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _strict_log(no_unexpected_errors: None) -> None:
    """See `beamish.testing.plugin`."""


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], WatchedLoop]]:
    """See `tests.watched`; the server's own loop, uvloop, is what tests ask for that run one themselves."""
    return {"watched": WatchedLoop}

"""Which keys of other servers are of use with a configuration; the commands themselves are in tests/system/test_import.py."""

from __future__ import annotations

import pytest

from beamish.cli.transfer import hashes


@pytest.mark.parametrize(
    ("mechanisms", "expected"),
    [
        (("PLAIN",), set()),
        (("SCRAM-SHA-256-PLUS", "PLAIN"), {"SHA-256"}),
        (("SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-512"), {"SHA-1", "SHA-512"}),
    ],
)
def test_keys_are_of_use_for_the_mechanisms_that_are_offered(mechanisms: tuple[str, ...], expected: set[str]) -> None:
    assert hashes(mechanisms) == expected

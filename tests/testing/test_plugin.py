"""The plugin in a project that is not ours: pytest loads it there unasked."""

import subprocess
import sys
from pathlib import Path

_WITHOUT_ASYNCIO = (
    "import sys; sys.modules['pytest_asyncio'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
)


def _pytest(directory: Path, test: str, *, asyncio: bool) -> tuple[int, str]:
    """Run a project of one test with nothing but our plugin and, where wanted, pytest-asyncio."""
    (directory / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n" if asyncio else "[pytest]\n")
    (directory / "test_it.py").write_text(test)
    run = ["-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))" if asyncio else _WITHOUT_ASYNCIO]
    plugins = ["-p", "beamish.testing.plugin", *(["-p", "pytest_asyncio.plugin"] if asyncio else [])]
    outcome = subprocess.run(
        [sys.executable, *run, "-q", "-p", "no:cacheprovider", *plugins],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return outcome.returncode, outcome.stdout + outcome.stderr


def test_a_project_without_asynchronous_tests_is_not_disturbed(tmp_path: Path) -> None:
    test = """import sys
def test_nothing_was_loaded():
    ours = sorted(name for name in sys.modules if name.startswith("beamish"))
    assert ours == ["beamish", "beamish.testing", "beamish.testing.plugin"]
    assert not {"lxml", "pydantic", "structlog", "uvloop"} & set(sys.modules)
"""
    code, said = _pytest(tmp_path, test, asyncio=False)
    assert code == 0, said


def test_a_fixture_says_that_pytest_asyncio_is_missing(tmp_path: Path) -> None:
    code, said = _pytest(tmp_path, "def test_it(live_server): pass", asyncio=False)
    assert code == 1
    assert "the fixture 'live_server' needs pytest-asyncio: pip install pytest-asyncio" in said


def test_the_fixtures_are_there_with_it(tmp_path: Path) -> None:
    test = """
async def test_it(live_server, world):
    juliet = await live_server.client("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard")
    assert juliet.jid != romeo.jid
"""
    code, said = _pytest(tmp_path, test, asyncio=True)
    assert code == 0, said

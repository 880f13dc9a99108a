"""What the log never says, whoever writes to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from beamish.core.log import configure


@pytest.fixture
def untouched() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "aiosqlite")}
    settings = structlog.get_config()
    yield
    root.handlers[:], root.level = kept, level
    for name, of in levels.items():
        logging.getLogger(name).setLevel(of)
    structlog.configure(**settings)


def check(password: str) -> None:
    """Fails with a password among its local variables."""
    raise ValueError(f"{len(password)} letters")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("format", ["text", "json"])
def test_a_traceback_shows_no_variables(format: Literal["text", "json"], capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug", format)
    for log in (logging.getLogger("asyncio"), structlog.get_logger("elsewhere")):
        secret = "correct" + " horse"
        try:
            check(secret)
        except ValueError:
            log.exception("broken")
    shown = capsys.readouterr().err
    assert shown.count("13 letters") == 2
    assert "Traceback" in shown
    assert "correct horse" not in shown


@pytest.mark.usefixtures("untouched")
def test_keys_that_name_secrets_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug", "json")
    structlog.get_logger("elsewhere").info("made", token="abc", password="def", secret="ghi", user="romeo")
    shown = capsys.readouterr().err
    assert "romeo" in shown
    assert not any(each in shown for each in ("abc", "def", "ghi"))


@pytest.mark.usefixtures("untouched")
def test_people_are_not_told_what_there_is_not_and_programs_are(capsys: pytest.CaptureFixture[str]) -> None:
    formats: dict[Literal["text", "json"], bool] = {"text": False, "json": True}
    for format, shown in formats.items():
        configure("info", format)
        structlog.get_logger("test").info("disconnected", error=None, peer="there")
        told = capsys.readouterr().err
        assert "there" in told and ("error" in told) is shown


@pytest.mark.usefixtures("untouched")
def test_no_level_shows_what_goes_into_the_database(capsys: pytest.CaptureFixture[str]) -> None:
    configure("debug", "text")
    logging.getLogger("aiosqlite").debug("executing INSERT of a private letter")
    assert capsys.readouterr().err == ""

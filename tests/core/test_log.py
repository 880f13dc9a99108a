"""What the log never says, whoever writes to it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from beamish.core.log import configure, to_journal


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


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    """Standard error is what systemd says the journal is."""
    into = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{into.st_dev}:{into.st_ino}")
    return capfd


@pytest.mark.usefixtures("untouched")
def test_the_journal_gets_levels_and_has_the_time_itself(journal: pytest.CaptureFixture[str]) -> None:
    configure("debug", "text")
    log = structlog.get_logger("test")
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("happened", number=1)
    logging.getLogger("foreign").warning("watch out")
    lines = journal.readouterr().err.splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>", "<4>"]
    assert lines[1] == "<6>[info     ] happened [test] number=1"
    assert "watch out" in lines[5]


@pytest.mark.usefixtures("untouched")
def test_nothing_that_is_logged_sets_a_level_of_its_own(journal: pytest.CaptureFixture[str]) -> None:
    """Of the levels above `critical`, one makes systemd write to every terminal."""
    configure("info", "text")
    try:
        raise ValueError("first line\n<0>second line")
    except ValueError:
        structlog.get_logger("test").exception("broken", value="a\n<0>b")
    lines = journal.readouterr().err.splitlines()
    assert len(lines) > 4
    assert {line[:3] for line in lines} == {"<3>"}


@pytest.mark.usefixtures("untouched")
def test_collectors_get_their_objects_through_the_journal_whole(journal: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    structlog.get_logger("test").warning("happened", number=1)
    (line,) = journal.readouterr().err.splitlines()
    assert line.startswith("<4>{")
    assert json.loads(line[3:])["timestamp"]


@pytest.mark.usefixtures("journal")
def test_a_journal_that_standard_error_was_taken_from_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert to_journal()
    into = os.fstat(2)
    assert not to_journal({})
    assert not to_journal({"JOURNAL_STREAM": f"{into.st_dev}:{into.st_ino + 1}"})
    assert not to_journal({"JOURNAL_STREAM": "something else"})
    kept = os.dup(2)
    os.close(2)
    try:
        assert not to_journal()
    finally:
        os.dup2(kept, 2)
        os.close(kept)

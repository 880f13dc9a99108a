"""Logging: events with keys, through the standard library so that everybody's handlers see them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import structlog

_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
"""The levels as syslog(3) numbers them."""

_SECRETS = frozenset(("password", "token", "secret"))


def _hide_secrets(_logger: Any, _method: str, event: Any) -> Any:
    for key in _SECRETS & event.keys():
        event[key] = "…"
    return event


def _drop_what_is_none(_logger: Any, _method: str, event: Any) -> Any:
    return {key: value for key, value in event.items() if value is not None}


def _drop_the_time(_logger: Any, _method: str, event: Any) -> Any:
    event.pop("timestamp", None)
    return event


def to_journal(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether standard error goes to systemd's journal (`JOURNAL_STREAM`, systemd.exec(5)) and not somewhere else since."""
    try:
        into = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{into.st_dev}:{into.st_ino}"


def for_journal(text: str, level: int = logging.ERROR) -> str:
    """Text with the priority before each line (sd-daemon(3)); also, so that no line sets one that somebody else chose."""
    priority = next(number for least, number in _PRIORITIES if level >= least)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class _JournalFormatter(structlog.stdlib.ProcessorFormatter):
    """Lines that the journal files under their level."""

    def format(self, record: logging.LogRecord) -> str:
        return for_journal(super().format(record), record.levelno)


def configure(level: str = "info", format: Literal["text", "json"] = "text") -> None:
    """Set up logging to standard error for a process: `text` for people, `json` for collectors.

    The journal gets the level of each line as its priority, and in `text` no time: it has its own.
    """
    journal = to_journal()
    renderer: Any
    shaped: list[Any] = []
    if format == "json":
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
        shaped.append(_drop_what_is_none)  # `error=None` tells a person nothing
        if journal:
            shaped.append(_drop_the_time)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        (_JournalFormatter if journal else structlog.stdlib.ProcessorFormatter)(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper("iso"),
                structlog.processors.format_exc_info,  # else the renderer shows local variables, passwords among them
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shaped, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("asyncio", "aiosqlite"):  # aiosqlite would write every statement with what is stored
        logging.getLogger(name).setLevel(logging.WARNING)
    configure_events([structlog.stdlib.ProcessorFormatter.wrap_for_formatter])


def configure_events(last: list[Any], *, cache: bool = True) -> None:
    """Send events to the standard library's loggers; `last` are the processors that shape them for the handler.

    With `cache`, a logger keeps the processors it was first used with: cheaper, but deaf to later changes (tests).
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper("iso"),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _hide_secrets,
            *last,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=cache,
    )

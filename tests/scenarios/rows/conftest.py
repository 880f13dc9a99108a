"""Every play here is written once and run twice: in memory, and over STARTTLS on sockets with streams between servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from .stage import SECRET, MemoryStage, Stage, TlsStage

CONTACTS = ("abuse", "admin", "feedback", "sales", "security", "status", "support")
SETTINGS: dict[str, Any] = {
    "server": {"admins": ["romeo@example.org"]},
    "components": {
        "upload.example.org": {"secret": SECRET},
        "proxy.example.org": {"secret": SECRET},
        "gate.example.org": {"secret": SECRET, "remote_roster": "ask"},
    },
    "modules": {
        "register": {
            "open": True,
            "captcha": "either",
            "questions": [{"question": "What is the capital of Italy?", "answers": ["Rome", "Roma"]}],
        },
        "contact": {
            **{name: [f"mailto:{name}@example.org", f"https://example.org/{name}"] for name in CONTACTS},
            "outages": ["https://status.example.net/example.org.json"],
        },
        "policy": {
            "auth_data": "hidden",
            "data_transmission": "encrypted",
            "data_retention": 720,
            "data_deletion": True,
            "access_policy": ["admins"],
            "tos": "https://example.org/terms",
        },
        "extdisco": {
            "services": [
                {"type": "stun", "host": "stun.example.org", "port": 3478, "transport": "udp"},
                {"type": "turn", "host": "turn.example.org", "port": 3478, "secret": "shh", "ttl": 3600},
                {"type": "ftp", "host": "ftp.example.org", "username": "guest", "password": "guest"},
            ]
        },
    },
}
"""Of example.org; example.net has none."""


@pytest_asyncio.fixture(params=["memory", "tls"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """Both servers, in memory or on sockets."""
    made: Stage = MemoryStage(SETTINGS) if request.param == "memory" else TlsStage(SETTINGS, tmp_path)
    async with made:
        yield made

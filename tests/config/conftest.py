from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from beamish.config import Config, load


class Options(BaseModel):
    """The shape of a module's section."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rooms:
    name = "muc"
    default = True
    essential = False

    class Config(Options):
        host: str = Field("conference.{domain}", description="Name of the service.")
        history: int = Field(20, ge=0, le=1000, description="Messages shown to newcomers.")


class Registration:
    """Called like a method that every model class has."""

    name = "register"
    default = False
    essential = False

    class Config(Options):
        open: bool = Field(False, description="Anybody may make an account.")
        policy: Literal["invite", "captcha"] | None = Field(None, description="Who may.", examples=["invite"])
        token: SecretStr | None = Field(None, description="Shared secret of the invitation service.")
        template: Path = Field(Path("welcome.txt"), description="Text sent to newcomers.")


class Routing:
    """Has no options, and the server cannot do without it."""

    name = "routing"
    default = True
    essential = True
    Config = Options


@pytest.fixture
def modules() -> list[Any]:
    """Three module classes: one runs by default, one does not, and one always runs."""
    return [Rooms, Registration, Routing]


Load = Callable[[str], Config]


@pytest.fixture
def load_text(tmp_path: Path, modules: list[Any]) -> Load:
    def load_it(text: str) -> Config:
        file = tmp_path / "beamish.toml"
        file.write_text(text, encoding="utf-8")
        return load(file, modules)

    return load_it

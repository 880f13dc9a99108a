"""Configuration: one TOML file, read into frozen models; `load` names every mistake by file, line and key."""

from beamish.config.load import load
from beamish.config.model import (
    C2sConfig,
    Config,
    DomainTls,
    LimitsConfig,
    LogConfig,
    ModuleClass,
    ModulesConfig,
    ServerConfig,
    StorageConfig,
    TlsConfig,
    build_root,
)
from beamish.config.problems import ConfigProblems, Problem
from beamish.config.values import Listen

__all__ = [
    "C2sConfig",
    "Config",
    "ConfigProblems",
    "DomainTls",
    "LimitsConfig",
    "Listen",
    "LogConfig",
    "ModuleClass",
    "ModulesConfig",
    "Problem",
    "ServerConfig",
    "StorageConfig",
    "TlsConfig",
    "build_root",
    "load",
]

"""TOML to frozen models, with every mistake named at once. Nothing here touches the disk but to
read the file.
"""

from ostnode.config.joining import JoinToken
from ostnode.config.loading import load_config, parse_config
from ostnode.config.mistakes import ConfigError, Mistake
from ostnode.config.models import (
    BucketConfig,
    Config,
    HttpLimits,
    IndexConfig,
    LogConfig,
    NodeConfig,
    TokensConfig,
)

__all__ = [
    "BucketConfig",
    "Config",
    "ConfigError",
    "HttpLimits",
    "IndexConfig",
    "JoinToken",
    "LogConfig",
    "Mistake",
    "NodeConfig",
    "TokensConfig",
    "load_config",
    "parse_config",
]

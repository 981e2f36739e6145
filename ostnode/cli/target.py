"""Which cluster a command talks to, and as whom: options, environment, or ./ost-data.

An index is named by its principal and its URL together, `idx1q…@http://host:7100`: logins are
signed for that principal, so nobody who answers at the URL in its place can use them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import click
import trio

from ostnode.cli.defaults import dev_layout
from ostnode.cli.failures import CommandError, ExitCode
from ostnode.cli.parameters import Parsed
from ostnode.client import Client, ClientOptions, RetryPolicy, connect
from ostnode.config import load_config
from ostnode.config.values import parse_base_url
from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal, PrincipalKind
from ostnode.keyfiles import load_seed
from ostnode.node.layout import DevLayout
from ostnode.node.memory import MembershipFile
from ostnode.wire.messages import BucketAddress

P = ParamSpec("P")
R = TypeVar("R")


IMPATIENT: Final = RetryPolicy(attempts_max=4)
"""Somebody waits at a terminal: a node that is not there is told within a few seconds."""
PATIENT: Final = RetryPolicy()
"""For transfers, which are worth waiting out a node's restart."""


@dataclass(frozen=True, slots=True)
class IndexAddress:
    """An index node: who it is and the base URL of its HTTP interface."""

    principal: Principal
    url: str


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster's index and the key of whoever calls."""

    index: IndexAddress
    key: KeyPair

    def run(self, call: Callable[[Client], Awaitable[R]], retry: RetryPolicy = IMPATIENT) -> R:
        """Run `call` with a client of that index, as that caller, to its end."""

        async def connected() -> R:
            async with connect(
                self.index.url,
                self.key,
                index=self.index.principal,
                options=ClientOptions(retry=retry),
            ) as client:
                return await call(client)

        return trio.run(connected)


def parse_index(text: str) -> IndexAddress:
    """`idx1q…@http://host:port`; raises ValueError or InvalidArgumentError."""
    principal, at, url = text.partition("@")
    if not at:
        raise ValueError("write idx1q…@http://host:port, as the index prints it when it starts")
    return IndexAddress(Principal.parse(principal, PrincipalKind.INDEX), parse_base_url(url))


def parse_bucket(text: str) -> BucketAddress:
    """`bkt1q…@http://host:port`; raises ValueError or InvalidArgumentError."""
    principal, at, url = text.partition("@")
    if not at:
        raise ValueError("write bkt1q…@http://host:port, as `ostnode blob put` prints it")
    return BucketAddress(Principal.parse(principal, PrincipalKind.BUCKET), parse_base_url(url))


BUCKET: Final = Parsed("bkt1q…@URL", parse_bucket)


def client_options(function: Callable[Concatenate[Target, P], R]) -> Callable[P, R]:
    """Add --index and --key; the command's first argument is then the `Target`."""

    @_INDEX_OPTION
    @_KEY_OPTION
    @wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        given = click.get_current_context().meta
        return function(_target(given[_INDEX_META], given[_KEY_META]), *args, **kwargs)

    return command


@dataclass(frozen=True, slots=True)
class BucketTarget:
    """One bucket and the key of whoever calls."""

    bucket: BucketAddress
    key: KeyPair

    def run(self, call: Callable[[Client], Awaitable[R]]) -> R:
        """Run `call` with a client that has this bucket in the index's place: it asks no index."""
        index = IndexAddress(self.bucket.principal, self.bucket.http)
        return Target(index, self.key).run(call)


def bucket_options(function: Callable[Concatenate[BucketTarget, P], R]) -> Callable[P, R]:
    """Add --bucket and --key; the command's first argument is then the `BucketTarget`."""

    @_BUCKET_OPTION
    @_KEY_OPTION
    @wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        given = click.get_current_context().meta
        bucket = given[_BUCKET_META] or _dev_bucket(dev_layout("--bucket", "OST_BUCKET"))
        return function(BucketTarget(bucket, _key(given[_KEY_META])), *args, **kwargs)

    return command


def _remember(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    ctx.meta[f"{__name__}.{parameter.name}"] = value


_INDEX_META: Final = f"{__name__}.index"
_KEY_META: Final = f"{__name__}.key"
_BUCKET_META: Final = f"{__name__}.bucket"
_INDEX_OPTION: Final = click.option(
    "--index",
    type=Parsed("idx1q…@URL", parse_index),
    envvar="OST_INDEX",
    expose_value=False,
    callback=_remember,
    help="The cluster's index.",
)
_BUCKET_OPTION: Final = click.option(
    "--bucket",
    type=BUCKET,
    envvar="OST_BUCKET",
    expose_value=False,
    callback=_remember,
    help="The bucket, as it prints its address when it starts.",
)
_KEY_OPTION: Final = click.option(
    "--key",
    type=click.Path(path_type=Path),
    envvar="OST_KEY",
    expose_value=False,
    callback=_remember,
    help="The caller's key file.",
)


def _target(index: IndexAddress | None, key: Path | None) -> Target:
    if index is None:
        index = _dev_index(dev_layout("--index", "OST_INDEX"))
    return Target(index, _key(key))


def _key(path: Path | None) -> KeyPair:
    if path is None:
        path = dev_layout("--key", "OST_KEY").key_file
    return KeyPair.from_seed(load_seed(path))


def _dev_index(layout: DevLayout) -> IndexAddress:
    config = load_config(layout.config_file, os.environ)
    if config.index is None or not config.bucket:
        raise CommandError(
            f"{layout.config_file} names no index and bucket", "pass --index", ExitCode.USAGE
        )
    key = KeyPair.from_seed(load_seed(config.index.key_file))
    return IndexAddress(key.principal, f"http://{config.index.http}")


def _dev_bucket(layout: DevLayout) -> BucketAddress:
    """The first of the dev cluster's buckets."""
    config = load_config(layout.config_file, os.environ)
    if not config.bucket or not config.bucket[0].public_url:
        raise CommandError(
            f"{layout.config_file} says of no bucket where it is", "pass --bucket", ExitCode.USAGE
        )
    table = config.bucket[0]
    remembered = MembershipFile(table.data_dir).load()
    if remembered is not None:  # its name stays when its key changes
        return BucketAddress(remembered.bucket, table.public_url)
    key = KeyPair.from_seed(load_seed(table.key_file))
    return BucketAddress(key.principal, table.public_url)

"""What the index and the buckets of a process have in common once they are open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from hypercorn.typing import ASGIFramework
from typing_extensions import override

from ostnode.config import BucketConfig, IndexConfig, TokensConfig
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import TokenLimits
from ostnode.ids import Principal, PrincipalKind
from ostnode.keyfiles import load_seed
from ostnode.net.transport import Network
from ostnode.node.metrics import Figures, render
from ostnode.web.admin_app import Readiness
from ostnode.wire.calls import Kind, Service

NEWCOMERS: Final = 16
"""Connections over a role's `links_max` that are let in: at the limit somebody idle makes room for
each, which takes a moment."""

Checks = Callable[[], Mapping[str, str]]


class RoleReadiness(Readiness):
    """What /readyz tells of one role: its phase, and what its open parts say."""

    def __init__(self) -> None:
        self._phase = "starting"
        self._parts: Checks = dict
        self._figures: Figures = tuple

    def serving(self, parts: Checks, figures: Figures = tuple) -> None:
        """The role answers from now on; `parts` names each of its checks."""
        self._phase, self._parts, self._figures = "", parts, figures

    def stopping(self) -> None:
        """The role answers what is in flight and nothing new."""
        self._phase = "stopping"

    def metrics(self) -> tuple[str, bytes]:
        """What /metrics tells, and its content type."""
        return render(self._figures())

    @override
    def checks(self) -> Mapping[str, str]:
        return {"serving": self._phase, **self._parts()}


@dataclass(frozen=True, slots=True)
class Role:
    """An open role. `name` is its table in the config, `http` the address to listen on.

    It has up to `links_max` peer links.

    `kinds_news` gives an event that is set once `kinds_of` may have changed since, `roster_epoch`
    that of the newest roster.
    """

    name: str
    config: IndexConfig | BucketConfig
    key: KeyPair
    network: Network
    kind: Kind
    printed_as: PrincipalKind
    service: Service
    make_app: Callable[[], ASGIFramework]
    http: str
    kinds_of: Callable[[Principal], frozenset[Kind]]
    checks: Checks
    figures: Figures = tuple
    kinds_news: Callable[[], trio.Event] = trio.Event
    roster_epoch: Callable[[], int] = int
    named: Principal | None = None
    links_max: int = 320

    @property
    def principal(self) -> Principal:
        """Who this node is to others; a bucket's name stays when its key changes."""
        return self.named or self.key.principal


def load_key(
    config: IndexConfig | BucketConfig, load: Callable[[Path], bytes] = load_seed
) -> KeyPair:
    """The node's key; raises KeyFileError."""
    return KeyPair.from_seed(load(config.key_file))


def token_limits(config: TokensConfig) -> TokenLimits:
    """The config's [tokens] as the roles take them."""
    return TokenLimits(
        read_token_ttl_max_s=config.read_ttl_max,
        delete_token_ttl_max_s=config.delete_ttl_max,
        session_ttl_s=config.session_ttl,
        login_ttl_s=config.login_ttl,
        skew_s=config.skew,
    )


def kinds_from(
    known: Mapping[Kind, tuple[Principal, ...]],
) -> Callable[[Principal], frozenset[Kind]]:
    """What a principal is, from the config's lists."""
    kinds: dict[Principal, set[Kind]] = {}
    for kind, principals in known.items():
        for principal in principals:
            kinds.setdefault(principal, set()).add(kind)
    fixed = {principal: frozenset(found) for principal, found in kinds.items()}
    nothing: frozenset[Kind] = frozenset()
    return lambda principal: fixed.get(principal, nothing)

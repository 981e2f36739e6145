"""Who plays in a case: keys made from their names, so that every run has the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal
from ostnode.wire.calls import Kind

NAMES: Final = (
    "index",
    "bucket",
    "app",
    "operator",
    "alice",
    "bob",
    "carol",
    "mallory",
    "rival",
    "general",
    "random",
)
"""The nodes; the app and an operator; three registered users; a stranger; a bucket of nobody's; two
chats."""
PEERS: Final = ("alice", "bob", "carol", "mallory", "rival", "app", "operator", "bucket", "index")
"""Who may be played."""
USERS: Final = frozenset({"alice", "bob", "carol"})
STRANGERS: Final = frozenset({"mallory", "rival"})
"""Who is nobody to the nodes: whatever they do, nothing changes."""
_KINDS: Final[Mapping[str, frozenset[Kind]]] = {
    "app": frozenset({Kind.APP}),
    "operator": frozenset({Kind.OPERATOR}),
    "bucket": frozenset({Kind.BUCKET}),
    "index": frozenset({Kind.INDEX}),
}


class Cast:
    """Names to keys, and what each is to a node.

    Against a live node all are strangers, but for alice if `own` is her key: what that one may do
    is not known here.
    """

    def __init__(self, *, live: bool = False, own: KeyPair | None = None) -> None:
        self._live = live
        self._unknown = b"" if own is None else own.principal
        self._keys = {
            name: KeyPair.from_seed(f"ostnode fuzz {name}".encode().ljust(32, b".")[:32])
            for name in NAMES
        }
        if own is not None:
            self._keys["alice"] = own

    def key(self, name: str) -> KeyPair:
        """The member's key; raises KeyError for nobody."""
        return self._keys[name]

    def principal(self, name: str) -> Principal:
        """The member's public half."""
        return self._keys[name].principal

    def name_of(self, principal: bytes) -> str:
        """The member with this principal; empty for nobody."""
        for name, key in self._keys.items():
            if key.principal == principal:
                return name
        return ""

    def is_registered(self, principal: bytes) -> bool:
        """Whether the principal may be a user of the node."""
        if self._live:
            return self.may_anything(principal)
        return self.name_of(principal) in USERS

    def may_anything(self, principal: bytes) -> bool:
        """Whether it is not known what the principal may do."""
        return principal == self._unknown

    def kinds(self, principal: bytes) -> frozenset[Kind]:
        """What the principal is to a node, as far as that is known."""
        if self._live:
            return frozenset()
        return _KINDS.get(self.name_of(principal), frozenset())

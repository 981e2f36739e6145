"""What cases are made of: keys, identifiers, grants and tokens that mean something to the node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from ostnode.codec import encode
from ostnode.fuzz.cases import Dial, Greet, Prove, Step
from ostnode.fuzz.cast import PEERS, Cast
from ostnode.fuzz.links import frame
from ostnode.fuzz.world import BEGUN, CLUSTER, EPOCH, OLD, STORED, blob_id_of, open_world
from ostnode.identity.tokens import AccessToken, Grant, Scope, mint_access, mint_grant
from ostnode.ids import GrantId, Uid
from ostnode.virtual import run_virtual
from ostnode.wire.session import FrameKind

INTERESTING: Final = (
    0,
    1,
    2,
    15,
    16,
    17,
    23,
    24,
    255,
    256,
    4095,
    4096,
    4097,
    65_535,
    65_536,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
"""Edges of encodings, of limits and of machine integers."""
MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Material:
    """Statements that hold in the in-process world, and forgeries of them."""

    cast: Cast
    uids: Mapping[str, bytes]
    grants: Sequence[bytes]
    tokens: Sequence[bytes]
    blobs: Sequence[bytes]
    cursor: int = 0
    """The end of the feed."""

    def principal(self, rng: Random) -> bytes:
        """Somebody's, or nobody's."""
        names = ("alice", "bob", "carol", "mallory", "general", "random", "bucket", "index", "app")
        choices = [self.cast.principal(name) for name in names]
        return bytes(rng.choice([*choices, bytes(32), rng.randbytes(32)]))


async def _gather(cast: Cast) -> tuple[dict[str, bytes], dict[str, bytes], int]:
    async with open_world(cast) as world:
        return dict(world.uids), dict(world.grants), world.cursor


def gather_material(cast: Cast) -> Material:
    """Open a world once and take along what its people hold; a live node takes them for forged."""
    uids, grants, cursor = run_virtual(lambda: _gather(Cast()))
    blobs = [blob_id_of(data) for data in (STORED, BEGUN, OLD, b"nothing")]
    known = [*grants.values(), *_forged_grants(cast, uids)]
    return Material(cast, uids, known, _tokens(cast, uids), blobs, cursor)


def _forged_grants(cast: Cast, uids: Mapping[str, bytes]) -> list[bytes]:
    grant = Grant(
        grant_id=GrantId((EPOCH * 1_000_000).to_bytes(8, "big") + b"\x07" * 8),
        index=cast.principal("mallory"),
        bucket=cast.principal("bucket"),
        bucket_incarnation=EPOCH * 1_000_000,
        user=cast.principal("mallory"),
        uid=Uid(uids["alice"]),
        blob_id=blob_id_of(BEGUN),
        size=len(BEGUN),
        chunk_bytes=16,
        reserved=0,
        issued_at=EPOCH,
        expires_at=EPOCH + 3600,
    )
    own = mint_grant(cast.key("mallory"), grant)
    # The same, with the index named as its signer.
    return [own, own.replace(cast.principal("mallory"), cast.principal("index"), 1)]


def _tokens(cast: Cast, uids: Mapping[str, bytes]) -> list[bytes]:
    tokens, mallory = [], cast.principal("mallory")
    for who in ("bob", "mallory"):
        token = AccessToken(
            accessor=cast.principal("general"),
            cluster=CLUSTER,
            caller=cast.principal(who),
            scope=Scope.READ,
            issued_at=EPOCH,
            expires_at=EPOCH + 60,
            cti=b"fuzz" * 4,
        )
        others = [
            replace(token, scope=Scope.ACC_DEL),
            replace(
                token,
                scope=Scope.REF_DEL,
                blob=blob_id_of(STORED),
                owner=Uid(uids["alice"]),
                ref_id=b"\x01",
            ),
            replace(token, expires_at=EPOCH - 600, issued_at=EPOCH - 1200),
        ]
        tokens += [mint_access(cast.key("general"), each) for each in (token, *others)]
        forged = mint_access(cast.key("mallory"), replace(token, accessor=mallory))
        tokens.append(forged.replace(mallory, cast.principal("general"), 1))
    return tokens


def opened(link: int, who: str, to: str) -> list[Step]:
    """Steps to an open link."""
    return [Dial(link, to), Greet(link, who), Prove(link, who)]


def anybody(rng: Random) -> str:
    """A player; strangers and users more often than nodes."""
    return rng.choice(("alice", "alice", "bob", "mallory", "mallory", *PEERS))


def somewhere(rng: Random) -> str:
    """A node."""
    return rng.choice(("index", "bucket"))


def request_map(number: int, call: int, message: object, ms: int = MS) -> dict[str, object]:
    """A REQUEST's header."""
    return {"t": FrameKind.REQUEST.value, "id": number, "call": call, "ms": ms, "m": message}


def request(number: int, call: int, message: object, body: bytes = b"", ms: int = MS) -> bytes:
    """A REQUEST frame."""
    return frame(encode(request_map(number, call, message, ms)), body)

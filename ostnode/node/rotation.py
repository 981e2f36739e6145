"""A bucket's new key: made beside the old one, agreed with the index, put in its place.

Every step may be repeated, and a crash between any two leaves a bucket that works: until the key
file is replaced by the old key, afterwards by the new one. While they overlap both count.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from ostnode.client.errors import UnreachableError
from ostnode.config import Config
from ostnode.env import Rng
from ostnode.errors import InternalError, UnauthenticatedError
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import Principal
from ostnode.keyfiles import (
    KeyFileError,
    create_key_file,
    load_seed,
    put_in_place,
    successor_of,
)
from ostnode.net.link import open_link
from ostnode.net.transport import LinkClosedError
from ostnode.node.belonging import counting, find_index
from ostnode.node.errors import StartError
from ostnode.node.keychanges import keep_change
from ostnode.node.memory import MembershipFile
from ostnode.node.role import load_key
from ostnode.node.seams import Seams
from ostnode.wire.membership import ChangeBucketKey, KeyChanged
from ostnode.wire.rotation import sign_key_change

DEADLINE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rotated:
    """The bucket's name, which stays; its key from the next start on; the end of the old one."""

    bucket: Principal
    key: Principal
    old_until: int


async def rotate_bucket_key(config: Config, number: int, overlap_s: int, seams: Seams) -> Rotated:
    """Give `[[bucket]]` number `number` a new key, whether or not it runs meanwhile.

    Raises StartError, KeyFileError, UnreachableError, or the OstError that the index refuses
    with, or OSError. Asked again after any of them it goes on where it was.
    """
    name = f"bucket[{number}]"
    if not 0 <= number < len(config.bucket):
        raise StartError(f"the config has no {name}", "buckets are counted from 0")
    table = config.bucket[number]
    remembered = MembershipFile(table.data_dir).load()
    if remembered is None:
        raise StartError(f"{name} has joined no index yet", "run it first, then change its key")
    place = find_index(name, table, config.cluster_id, remembered)
    old = load_key(table)
    successor = successor_of(table.key_file)
    new = _next_key(successor, seams.rng)
    request = ChangeBucketKey(*sign_key_change(old, new, config.cluster_id, overlap_s))
    keys = counting(remembered.keys, seams.clock.now()) or (place.index,)
    index = _Index(place.peer, keys, config.node.peer_tls, seams)
    until = await index.tell(old, request)
    keep_change(table.data_dir, request)
    put_in_place(successor, table.key_file)
    return Rotated(remembered.bucket, new.principal, until)


def _next_key(path: Path, rng: Rng) -> KeyPair:
    """The key that waits at `path`, or a new one there; raises KeyFileError."""
    if not path.exists():
        create_key_file(path, rng)
    try:
        return KeyPair.from_seed(load_seed(path))
    except KeyFileError as error:
        hint = f"{error.hint}; or move it away, unless a change of keys was cut off just now"
        raise KeyFileError(path, error.problem, hint) from None


@dataclass(frozen=True, slots=True)
class _Index:
    """Where the index is, and the keys under which it may answer, at least one."""

    peer: str
    keys: tuple[Principal, ...]
    tls: bool
    seams: Seams

    async def tell(self, signer: KeyPair, request: ChangeBucketKey) -> int:
        """Until when the old key counts."""
        for key in self.keys[:-1]:
            with suppress(UnauthenticatedError):  # it answers under another one
                return await self._tell(key, signer, request)
        return await self._tell(self.keys[-1], signer, request)

    async def _tell(self, key: Principal, signer: KeyPair, request: ChangeBucketKey) -> int:
        try:
            with trio.fail_after(DEADLINE_S):
                async with open_link(
                    self.seams.peers(signer, tls=self.tls),
                    self.peer,
                    signer=signer,
                    verify=verify,
                    expect=key,
                    rng=self.seams.rng,
                ) as link:
                    message = (await link.call(request)).message
        except LinkClosedError as error:
            raise UnreachableError(self.peer, str(error)) from error
        except trio.TooSlowError:
            raise UnreachableError(self.peer, f"no answer within {DEADLINE_S:g} s") from None
        if not isinstance(message, KeyChanged):
            raise InternalError(f"the index answered {type(message).__name__}")
        return message.old_until

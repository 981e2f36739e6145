"""A bucket's new key: made beside the old one, agreed with the index, put in its place.

Every step may be repeated, and a crash between any two leaves a bucket that works: until the key
file is replaced by the old key, afterwards by the new one. While they overlap both count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

from ostnode.client.errors import UnreachableError
from ostnode.config import Config
from ostnode.errors import InternalError, NotAuthorizedError
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import Principal
from ostnode.keyfiles import create_key_file, load_seed, put_in_place, successor_of
from ostnode.net.link import open_link
from ostnode.net.transport import LinkClosedError
from ostnode.node.belonging import IndexPlace, find_index
from ostnode.node.errors import StartError
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
    with. Asked again after any of them it goes on where it was.
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
    if not successor.exists():
        create_key_file(successor, seams.rng)
    new = KeyPair.from_seed(load_seed(successor))
    request = ChangeBucketKey(*sign_key_change(old, new, config.cluster_id, overlap_s))
    try:
        until = await _tell(place, config, old, request, seams)
    except NotAuthorizedError as refusal:
        # Cut off after the index had agreed, and the old key is over since?
        try:
            until = await _tell(place, config, new, request, seams)
        except NotAuthorizedError:
            raise refusal from None
    put_in_place(successor, table.key_file)
    return Rotated(remembered.bucket, new.principal, until)


async def _tell(
    place: IndexPlace, config: Config, signer: KeyPair, request: ChangeBucketKey, seams: Seams
) -> int:
    """Tell the index; until when the old key counts."""
    try:
        with trio.fail_after(DEADLINE_S):
            async with open_link(
                seams.peers(signer, tls=config.node.peer_tls),
                place.peer,
                signer=signer,
                verify=verify,
                expect=place.index,
                rng=seams.rng,
            ) as link:
                message = (await link.call(request)).message
    except LinkClosedError as error:
        raise UnreachableError(place.peer, str(error)) from error
    except trio.TooSlowError:
        raise UnreachableError(place.peer, f"no answer within {DEADLINE_S:g} s") from None
    if not isinstance(message, KeyChanged):
        raise InternalError(f"the index answered {type(message).__name__}")
    return message.old_until

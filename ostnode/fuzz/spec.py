"""What `docs/protocol.md` promises, in numbers of the judge's own.

Taken from the text, not from the code: a limit that is off by one there must not be off here.
"""

from __future__ import annotations

from typing import Final

from ostnode.codec import encode

GREETING_HEADER_MAX: Final = 4_096
HEADER_MAX: Final = 65_536
BODY_MAX: Final = 1_052_672
HELLO, AUTH, WELCOME, REQUEST, REPLY, REFUSAL, CANCEL, PING, PONG, GOAWAY = range(1, 11)
NAMES: Final = (
    "nothing",
    "HELLO",
    "AUTH",
    "WELCOME",
    "REQUEST",
    "REPLY",
    "REFUSAL",
    "CANCEL",
    "PING",
    "PONG",
    "GOAWAY",
)
HANDSHAKE_S: Final = 10.0
PING_INTERVAL_S: Final = 15.0
STALL_S: Final = 30.0
STALLED_WITHIN_S: Final = STALL_S + 2 * PING_INTERVAL_S
"""A stall is noticed on a ping's tick."""
EXCUSE_MARGIN_S: Final = 1.0

READ_ONLY: Final = frozenset({
    "user",
    "can_forward",
    "locate",
    "cluster_status",
    "fleet_status",
    "list_members",
    "upload_status",
    "blob_info",
    "read_blob",
    "maintenance_status",
    "check_progress",
    "list_findings",
    "list_rejected",
    "list_blocked",
})
"""Calls whose success changes nothing."""
CHANGING_REFUSALS: Final = frozenset({
    "hash_mismatch",
    "bucket_full",
    "accessor_deleted",
    "busy",
    "shutting_down",
})
"""Refusals that may go with a change: a dead grant is closed, and `busy` tells no outcome."""


def statement(side: str, dialler_hello: bytes, accepter_hello: bytes, binding: bytes) -> bytes:
    """What a side signs to prove its principal, as the protocol's text has it."""
    return encode(["ostnode peer auth 1", side, dialler_hello, accepter_hello, binding])

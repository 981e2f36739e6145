"""Parties and well-formed statements, and a way to sign claims that no honest party would."""

from __future__ import annotations

from collections.abc import Mapping

from ostnode.codec import encode_cose
from ostnode.identity.claims import Claim, confirmation
from ostnode.identity.cose import sign1
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import AccessToken, Grant, Login, Scope, Session, TokenLimits
from ostnode.ids import BlobId, ClusterId, GrantId, Uid

NOW = 1_700_000_000
LIMITS = TokenLimits()
CLUSTER = ClusterId(b"cluster-cluster-")
GENERAL = KeyPair.from_seed(b"general" + bytes(25))
ALICE = KeyPair.from_seed(b"alice" + bytes(27))
BOB = KeyPair.from_seed(b"bob" + bytes(29))
INDEX = KeyPair.from_seed(b"index" + bytes(27))
BUCKET = KeyPair.from_seed(b"bucket" + bytes(26))
BLOB = BlobId(b"\xb1" * 32)
OTHER_BLOB = BlobId(b"\xb2" * 32)
OWNER = Uid(b"owner-id")

READ = AccessToken(
    accessor=GENERAL.principal,
    cluster=CLUSTER,
    caller=BOB.principal,
    scope=Scope.READ,
    issued_at=NOW,
    expires_at=NOW + 600,
    cti=b"0123456789abcdef",
)
GRANT = Grant(
    grant_id=GrantId(b"grantid-grantid-"),
    index=INDEX.principal,
    bucket=BUCKET.principal,
    bucket_incarnation=NOW * 1_000_000,
    user=ALICE.principal,
    uid=OWNER,
    blob_id=BLOB,
    size=5_000_000,
    chunk_bytes=1 << 20,
    reserved=5_000_000,
    issued_at=NOW,
    expires_at=NOW + 3600,
)
SESSION = Session(
    caller=ALICE.principal, node=BUCKET.principal, expires_at=NOW + 900, origin="https://chat.test"
)
LOGIN = Login(
    caller=ALICE.principal,
    node=BUCKET.principal,
    origin="",
    issued_at=NOW,
    cti=b"0123456789abcdef",
)

READ_CLAIMS: dict[int, object] = {
    Claim.AUD: CLUSTER.hex(),
    Claim.EXP: NOW + 600,
    Claim.IAT: NOW,
    Claim.CTI: b"0123456789abcdef",
    Claim.CNF: confirmation(BOB.principal),
    Claim.SCOPE: "read",
}
GRANT_CLAIMS: dict[int, object] = {
    Claim.SUB: ALICE.principal.hex(),
    Claim.AUD: BUCKET.principal.hex(),
    Claim.EXP: NOW + 3600,
    Claim.IAT: NOW,
    Claim.CTI: b"grantid-grantid-",
    Claim.BLOB: bytes(BLOB),
    Claim.UID: bytes(OWNER),
    Claim.SIZE: 5_000_000,
    Claim.CHUNK_BYTES: 1 << 20,
    Claim.RESERVED: 5_000_000,
    Claim.BUCKET_INCARNATION: NOW * 1_000_000,
}
LOGIN_CLAIMS: dict[int, object] = {
    Claim.AUD: BUCKET.principal.hex(),
    Claim.IAT: NOW,
    Claim.CTI: b"0123456789abcdef",
    Claim.ORIGIN: "",
}
SESSION_CLAIMS: dict[int, object] = {
    Claim.SUB: ALICE.principal.hex(),
    Claim.AUD: BUCKET.principal.hex(),
    Claim.EXP: NOW + 900,
    Claim.ORIGIN: "https://chat.test",
}


def sign_claims(key: KeyPair, typ: str, claims: Mapping[int, object]) -> bytes:
    """A properly signed statement with whatever claims; those set to None are left out."""
    return sign1(key, typ, encode_cose({k: v for k, v in claims.items() if v is not None}))

"""`ostnode token`: what an app's backend mints, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from ostnode.cli.defaults import cluster_or_default
from ostnode.cli.output import Output, Value, json_option, pass_output
from ostnode.cli.parameters import BLOB_ID, CLUSTER_ID, PRINCIPAL, REF_ID, SECONDS, TOKEN, UID
from ostnode.codec import CoseValue, decode_cose
from ostnode.env import SystemClock, SystemRng
from ostnode.identity.access import ACCESS_TYP
from ostnode.identity.claims import Claim
from ostnode.identity.cose import parse_sign1
from ostnode.identity.grants import GRANT_TYP
from ostnode.identity.keys import KeyPair
from ostnode.identity.sessions import LOGIN_TYP
from ostnode.identity.statements import CTI_BYTES
from ostnode.identity.tokens import AccessToken, Scope, TokenLimits, encode_text, mint_access
from ostnode.ids import BlobId, ClusterId, Principal, PrincipalKind, Uid
from ostnode.keyfiles import load_seed

_SIGNERS: Final[Mapping[str, PrincipalKind]] = {
    ACCESS_TYP: PrincipalKind.ACCESSOR,
    GRANT_TYP: PrincipalKind.INDEX,
    LOGIN_TYP: PrincipalKind.USER,
}
"""What signs each type of statement; a session is signed by any node."""


@click.group()
def token() -> None:
    """Mint and inspect access tokens."""


@token.command("mint")
@click.argument("accessor_key", type=click.Path(path_type=Path))
@click.argument("caller", type=PRINCIPAL)
@click.option("--scope", type=click.Choice([scope.value for scope in Scope]), default="read")
@click.option("--blob", type=BLOB_ID, help="The one blob it is for; read may leave it out.")
@click.option("--owner", type=UID, help="ref.del: whose reference.")
@click.option("--ref", type=REF_ID, help="ref.del: the reference id, in hex.")
@click.option("--ttl", type=SECONDS, help="How long it lives [default: the most its scope may].")
@click.option("--cluster", type=CLUSTER_ID, envvar="OST_CLUSTER", help="The cluster's id.")
@json_option
@pass_output
def mint(
    output: Output,
    *,
    accessor_key: Path,
    caller: Principal,
    scope: str,
    blob: BlobId | None,
    owner: Uid | None,
    ref: bytes | None,
    ttl: int | None,
    cluster: ClusterId | None,
) -> None:
    """Sign with the key file of a chat (ACCESSOR_KEY) what CALLER may do there."""
    key = KeyPair.from_seed(load_seed(accessor_key))
    wanted, limits, now = Scope(scope), TokenLimits(), int(SystemClock().now())
    longest = limits.read_token_ttl_max_s if wanted is Scope.READ else limits.delete_token_ttl_max_s
    minted = mint_access(
        key,
        AccessToken(
            accessor=key.principal,
            cluster=cluster_or_default(cluster),
            caller=caller,
            scope=wanted,
            issued_at=now,
            expires_at=now + (longest if ttl is None else ttl),
            cti=SystemRng().token(CTI_BYTES),
            blob=blob,
            owner=owner,
            ref_id=(ref or b"") if wanted is Scope.REF_DEL else ref,
        ),
    )
    text = encode_text(minted)
    output.result({"token": text}, text)


@token.command("inspect")
@click.argument("token", type=TOKEN)
@json_option
@pass_output
def inspect(output: Output, token: bytes) -> None:
    """Print what TOKEN (or a grant, login or session) says, and whether its signer signed it."""
    statement = parse_sign1(token)
    signer = _SIGNERS.get(statement.typ)
    claims = decode_cose(statement.payload)
    named: dict[str, Value] = {}
    if isinstance(claims, dict):
        named = {_claim_name(claim): _printable(value) for claim, value in claims.items()}
    output.result({
        "type": statement.typ,
        "signed_by": statement.kid.text(signer) if signer else str(statement.kid),
        "signature": "valid" if statement.verified() else "WRONG",
        "bytes": len(token),
        **named,
    })


def _claim_name(claim: int | str) -> str:
    """The claim's name in `Claim`, or its number."""
    return Claim(claim).name.lower() if claim in set(Claim) else str(claim)


def _printable(value: CoseValue) -> Value:
    """Bytes as hex, the key in cnf as a principal, times and texts as they are."""
    match value:
        case bytes():
            return value.hex()
        case {1: {-2: bytes(key)}} if len(key) == Principal.length:
            return Principal(key).text(PrincipalKind.USER)
        case list() | dict():
            return repr(value)
        case _:
            return value

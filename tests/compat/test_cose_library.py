"""Our tokens against an independent COSE and CWT implementation, the PyPI library `cwt`.

It wants another cbor2 than ours, so it runs as a program in `.venv-cose`, which `make system`
creates from constraints-cose.txt.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ostnode.codec import decode_cose, encode_cose
from ostnode.identity.claims import Claim
from ostnode.identity.cose import parse_sign1
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import (
    Scope,
    TokenLimits,
    mint_access,
    mint_grant,
    mint_login,
    mint_session,
    open_access,
    open_grant,
)
from tests.support.identity_tokens import (
    ALICE,
    BLOB,
    BOB,
    BUCKET,
    CLUSTER,
    GENERAL,
    GRANT,
    GRANT_CLAIMS,
    INDEX,
    LIMITS,
    LOGIN,
    LOGIN_CLAIMS,
    NOW,
    OWNER,
    READ,
    READ_CLAIMS,
    SESSION,
    SESSION_CLAIMS,
)

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-cose" / "bin" / "python"
FAR = 4_000_000_000
"""The library looks at the real clock: an end in 2096."""

pytestmark = pytest.mark.system

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Run:
    assert PYTHON.exists(), "make .venv-cose/.ready creates the other environment"

    def run_peer(*, to_open: Sequence[Any] = (), to_sign: Sequence[Any] = ()) -> dict[str, Any]:
        work = {"open": _to_json(list(to_open)), "sign": _to_json(list(to_sign))}
        done = subprocess.run(
            [PYTHON, Path(__file__).with_name("cose_peer.py")],
            input=json.dumps(work),
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run_peer


def _to_json(value: object) -> object:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, Mapping):
        return {"map": [[int(key), _to_json(item)] for key, item in value.items()]}
    return [_to_json(item) for item in value] if isinstance(value, list) else value


LONG_CLAIMS: list[tuple[KeyPair, str, dict[int, object], bytes]] = [
    (
        GENERAL,
        "ost-at+cwt",
        {**READ_CLAIMS, Claim.EXP: FAR},
        mint_access(GENERAL, replace(READ, expires_at=FAR)),
    ),
    (
        GENERAL,
        "ost-at+cwt",
        {
            **READ_CLAIMS,
            Claim.EXP: FAR,
            Claim.SCOPE: "ref.del",
            Claim.BLOB: bytes(BLOB),
            Claim.OWNER: bytes(OWNER),
            Claim.REF_ID: b"m1",
        },
        mint_access(
            GENERAL,
            replace(
                READ, expires_at=FAR, scope=Scope.REF_DEL, blob=BLOB, owner=OWNER, ref_id=b"m1"
            ),
        ),
    ),
    (
        INDEX,
        "ost-grant+cwt",
        {**GRANT_CLAIMS, Claim.EXP: FAR},
        mint_grant(INDEX, replace(GRANT, expires_at=FAR)),
    ),
    (ALICE, "ost-login+cwt", LOGIN_CLAIMS, mint_login(ALICE, LOGIN)),
    (
        BUCKET,
        "ost-session+cwt",
        {**SESSION_CLAIMS, Claim.EXP: FAR},
        mint_session(BUCKET, replace(SESSION, expires_at=FAR)),
    ),
]


def test_the_library_verifies_what_we_sign_and_reads_the_same(run: Run) -> None:
    result = run(to_open=[[token, bytes(key.principal)] for key, _, _, token in LONG_CLAIMS])
    expected = [
        [_to_json({1: -19, 4: bytes(key.principal), 16: typ}), _to_json(claims)]
        for key, typ, claims, _ in LONG_CLAIMS
    ]
    assert [_sorted(item) for item in result["opened"]] == [_sorted(item) for item in expected]


def test_the_library_signs_the_same_bytes(run: Run) -> None:
    result = run(
        to_sign=[
            [key.seed, bytes(key.principal), typ, claims] for key, typ, claims, _ in LONG_CLAIMS
        ]
    )
    assert [bytes.fromhex(item["hex"]) for item in result["signed"]] == [
        token for _, _, _, token in LONG_CLAIMS
    ]


def test_we_open_what_the_library_signs(run: Run) -> None:
    result = run(
        to_sign=[
            [GENERAL.seed, bytes(GENERAL.principal), "ost-at+cwt", READ_CLAIMS],
            [INDEX.seed, bytes(INDEX.principal), "ost-grant+cwt", GRANT_CLAIMS],
        ]
    )
    token, grant = (bytes.fromhex(item["hex"]) for item in result["signed"])
    limits = TokenLimits()
    accessor, bucket = GENERAL.principal, BUCKET.principal
    assert open_access(token, accessor=accessor, cluster=CLUSTER, now=NOW, limits=limits) == READ
    opened = open_grant(
        grant,
        index=INDEX.principal,
        bucket=bucket,
        bucket_incarnation=GRANT.bucket_incarnation,
        now=NOW,
        skew=LIMITS.skew_s,
    )
    assert opened == GRANT


def test_the_library_refuses_what_was_changed(run: Run) -> None:
    token = LONG_CLAIMS[0][3]
    parsed = parse_sign1(token)
    parts = decode_cose(token, tag=18)
    assert isinstance(parts, list)
    other_payload = encode_cose([parts[0], {}, parsed.payload[:-1] + b"x", parts[3]], tag=18)
    result = run(
        to_open=[
            [token[:-1] + bytes([token[-1] ^ 1]), bytes(GENERAL.principal)],
            [other_payload, bytes(GENERAL.principal)],
            [token, bytes(BOB.principal)],
        ]
    )
    # The last one names a kid that is not the key it is opened with.
    assert result["opened"] == ["VerifyError", "VerifyError", "ValueError"]


def _sorted(value: Any) -> Any:
    """The same JSON with the pairs of every map in order, which JSON does not promise."""
    if isinstance(value, dict) and "map" in value:
        return {"map": sorted([key, _sorted(item)] for key, item in value["map"])}
    return [_sorted(item) for item in value] if isinstance(value, list) else value

"""Signs and opens tokens with the `cwt` library, in an environment of its own.

Reads one JSON object from standard input: {"open": [[token, public key], …], "sign": [[seed,
public key, typ, claims], …]}. Writes one: {"opened": [[protected header, claims] or an error's
name, …], "signed": [token, …]}. Bytes are {"hex": …}, maps are lists of [key, value] pairs.
"""

import json
import sys

import cbor2
from cwt import COSE, CWT, COSEKey, CWTError

KTY, KID, ALG, CRV, X, D = 1, 2, 3, -1, -2, -4
OKP, ED25519, ALG_ED25519, TYP = 1, 6, -19, 16


def key_of(public: bytes, seed: bytes | None = None):
    parameters = {KTY: OKP, KID: public, ALG: ALG_ED25519, CRV: ED25519, X: public}
    if seed is not None:
        parameters[D] = seed
    return COSEKey.new(parameters)


def opened(token: bytes, public: bytes):
    key = key_of(public)
    try:
        protected, unprotected, payload = COSE.new(verify_kid=True).decode_with_headers(token, key)
        claims = CWT.new().decode(token, key)
    except (CWTError, ValueError) as error:
        return type(error).__name__
    if unprotected or cbor2.loads(payload) != claims:
        return "the two ways to decode differ"
    return [protected, claims]


def signed(seed: bytes, public: bytes, typ: str, claims: dict) -> bytes:
    protected = {1: ALG_ED25519, 4: public, TYP: typ}
    payload = cbor2.dumps(claims, canonical=True)
    cose = COSE.new(deterministic_header=True)
    return cose.encode_and_sign(payload, key_of(public, seed), protected=protected)


def to_json(value):
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {"map": [[int(key), to_json(item)] for key, item in value.items()]}
    return [to_json(item) for item in value] if isinstance(value, list) else value


def from_json(value):
    if isinstance(value, dict) and "hex" in value:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value["map"]}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Do what standard input asks."""
    work = json.load(sys.stdin)
    result = {
        "opened": [to_json(opened(*from_json(item))) for item in work["open"]],
        "signed": [to_json(signed(*from_json(item))) for item in work["sign"]],
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()

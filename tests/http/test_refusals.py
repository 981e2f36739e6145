"""Every code of the error table, through HTTP: the same scenarios as through links."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostnode.client.routes import HttpCall, blob_call
from ostnode.errors import (
    FrameTooLargeError,
    MethodNotAllowedError,
    OstError,
    RangeNotSatisfiableError,
    UnknownCallError,
    UnsupportedMediaTypeError,
)
from tests.support.cluster import Cluster
from tests.support.httpway import LIMITS, an_http_cluster
from tests.support.refusals import DATA, HTTP_ALONE, REFUSALS, Refusal


async def serves_others(cluster: Cluster) -> None:
    for bucket in cluster.buckets:
        bucket.gate.broken = False
    made = await cluster.carol.upload(DATA + b"hers", cluster.random)
    assert await cluster.stranger.read(cluster.random, made) == DATA + b"hers"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
async def test_a_refusal_over_http(refusal: Refusal, tmp_path: Path) -> None:
    async with an_http_cluster(tmp_path, refusal.shape) as (cluster, _):
        attempt = await refusal.prepare(cluster)
        with pytest.raises(refusal.error) as caught:
            await attempt()
        assert refusal.details <= caught.value.details.keys()
        if refusal.recovers:
            await serves_others(cluster)


CHUNKS = "/v1/chunks"
NOWHERE = "/v1/nowhere"
PUSH = {"Ost-Grant": "AAAA", "Ost-Chunk-Index": "0"}
MISUSES: list[tuple[type[OstError], str, HttpCall, bytes]] = [
    (MethodNotAllowedError, "index", HttpCall("", "PUT", "/v1/users"), b""),
    (MethodNotAllowedError, "bucket", HttpCall("", "GET", CHUNKS), b""),
    (UnknownCallError, "index", HttpCall("", "GET", NOWHERE), b""),
    (UnknownCallError, "bucket", HttpCall("", "GET", NOWHERE), b""),
    (
        UnsupportedMediaTypeError,
        "index",
        HttpCall("", "POST", "/v1/allocations", headers={"Content-Type": "text/plain"}),
        b"{}",
    ),
    (
        UnsupportedMediaTypeError,
        "bucket",
        HttpCall("", "POST", CHUNKS, headers={**PUSH, "Content-Type": "multipart/form-data"}),
        b"",
    ),
    (
        UnsupportedMediaTypeError,
        "bucket",
        HttpCall("", "POST", CHUNKS, headers={**PUSH, "Content-Encoding": "gzip"}),
        b"",
    ),
    (
        FrameTooLargeError,
        "index",
        HttpCall("", "POST", "/v1/users", headers={"Content-Type": "application/json"}),
        b" " * (LIMITS.request_body_max + 1),
    ),
    (
        FrameTooLargeError,
        "bucket",
        HttpCall("", "POST", CHUNKS, headers=PUSH),
        bytes(1 + (1 << 20)),
    ),
]
"""What only HTTP can get wrong: the error, at which role, the request, its body."""


async def test_what_only_http_can_get_wrong(tmp_path: Path) -> None:
    async with an_http_cluster(tmp_path) as (cluster, way):
        nodes = {"index": cluster.index, "bucket": cluster.buckets[0]}
        for error, role, call, body in MISUSES:
            with pytest.raises(error) as caught:
                await way.send(cluster.app, nodes[role], call, body)
            assert caught.value.message
        await serves_others(cluster)


async def test_range_not_satisfiable(tmp_path: Path) -> None:
    async with an_http_cluster(tmp_path) as (cluster, way):
        made = await cluster.alice.upload(DATA, cluster.general)
        token = cluster.general.token(cluster.bob)
        call = blob_call(cluster.general.principal, made.blob_id, token, f"bytes={len(DATA)}-")
        with pytest.raises(RangeNotSatisfiableError) as caught:
            await way.send(cluster.bob, cluster.node(made.bucket), call)
        assert caught.value.details == {"size": len(DATA)}


def test_every_code_that_only_http_knows_was_met() -> None:
    met = {error.code for error, *_ in MISUSES} | {RangeNotSatisfiableError.code}
    assert met >= HTTP_ALONE.keys()

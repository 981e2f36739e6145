from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import trio
from typing_extensions import override

from ostnode.identity.tokens import decode_text
from ostnode.ids import GrantId
from ostnode.wire import messages as m
from tests.support.client_fakes import answer
from tests.support.client_loopback import LoopbackCluster, serving

ROOT = Path(__file__).parents[2]
SIZE = 1 << 30
GROWTH_KIB_MAX = 100 << 10


class Zeros(httpx2.AsyncByteStream):
    """A blob of zeros, never in memory as a whole."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        piece = bytes(1 << 18)
        for _ in range(SIZE // len(piece)):
            await trio.lowlevel.checkpoint()
            yield piece


class DiscardingCluster(LoopbackCluster):
    """Believes every chunk and keeps none; every blob is SIZE zeros."""

    @override
    async def _push(self, request: httpx2.Request, body: bytes) -> httpx2.Response:
        await trio.lowlevel.checkpoint()
        self.bodies.clear()
        upload = self.uploads[GrantId(decode_text(request.headers["ost-grant"]))]
        upload.chunks[int(request.headers["ost-chunk-index"])] = b""
        missing = max(1, -(-upload.size // self.chunk_bytes)) - len(upload.chunks)
        return answer(m.PushResult(missing, None if missing else self._reference(upload, ())))

    @override
    def _read(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-length": str(SIZE)}, stream=Zeros())


@pytest.mark.system
async def test_b13_the_client_moves_1_gib_in_bounded_memory(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.touch()
    os.truncate(source, SIZE)  # sparse: its zeros take no disk
    program = ROOT / "tests" / "support" / "client_mover.py"
    async with serving(DiscardingCluster()) as url:
        with trio.fail_after(240):
            result = await trio.run_process(
                [sys.executable, str(program), url, str(source), str(target)],
                capture_stdout=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
    assert target.stat().st_size == SIZE
    memory = json.loads(result.stdout)
    assert memory["after_upload"] - memory["idle"] < GROWTH_KIB_MAX, memory
    assert memory["after_download"] - memory["idle"] < GROWTH_KIB_MAX, memory

"""The fuzzer against a node that runs as a process of its own, over TLS."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.processes import dev_environment, ostnode, start_ostnode, wait_for_text

pytestmark = pytest.mark.system


async def test_b47_a_running_node_stands_it(tmp_path: Path) -> None:
    env = dev_environment()
    node = start_ostnode("dev", cwd=tmp_path, env=env)
    try:
        await wait_for_text(tmp_path / "out.txt", "Ctrl-C ends it", node)
        for peer in ("OST_INDEX_PEER", "OST_BUCKET_0_PEER"):
            done = ostnode(
                *("fuzz", "--target", env[peer], "--pid", node.pid, "--seconds", 15, "--json"),
                cwd=tmp_path,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            report = json.loads(done.stdout)
            print(f"{peer}: {report['cases']} cases, {report['features']} features")
            assert report["features"] > 10
        assert node.poll() is None
    finally:
        node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0
    assert "call failed" not in (tmp_path / "err.txt").read_text()

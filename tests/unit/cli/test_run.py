"""`ostnode run` and `ostnode dev` in this process, ended by the signals they live with."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator

import pytest
import structlog

from ostnode.node.layout import DevLayout
from tests.support.cli import Cli
from tests.support.nodes import one_process
from tests.support.processes import dev_environment

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def ended_soon() -> Iterator[None]:
    """SIGTERM to this process in a moment; only a running node takes it."""
    timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # should the node end too early
    timer.start()
    yield
    timer.join()
    signal.signal(signal.SIGTERM, before)


def test_run_serves_until_sigterm_and_exits_0(cli: Cli, ended_soon) -> None:
    made = one_process(cli.root, index_peer="127.0.0.1:0")
    assert cli("run", made.file).code == 0
    assert (cli.root / "index").is_dir()
    assert (cli.root / "bucket-0" / "segments").is_dir()


def test_dev_says_where_it_is_and_what_to_try(
    cli: Cli, ended_soon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in dev_environment().items():
        monkeypatch.setenv(name, value)
    result = cli("dev", "--json")
    assert result.code == 0
    shown = json.loads(result.out)
    assert shown["index"].endswith(f"@http://{os.environ['OST_INDEX_HTTP']}")
    assert shown["buckets"] == [f"http://{os.environ[f'OST_BUCKET_{n}_HTTP']}" for n in range(2)]
    assert shown["dev_key"] == str(DevLayout(cli.root / "ost-data").key_file.relative_to(cli.root))
    assert len(shown["try"]) == 3


def test_a_dev_config_without_buckets_is_told(cli: Cli) -> None:
    made = one_process(cli.root, index_peer="127.0.0.1:0")
    layout = DevLayout(cli.root / "ost-data")
    layout.root.mkdir()
    layout.config_file.write_text(made.file.read_text().partition("[[bucket]]")[0])
    result = cli("dev")
    assert result.code == 1
    assert "names no index and bucket" in result.err


@pytest.mark.parametrize("provisioner", ["none", "local", "command"])
def test_a_database_that_cannot_be_opened_is_told_without_a_traceback(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, provisioner: str
) -> None:
    made = one_process(cli.root, index_peer="127.0.0.1:0")
    monkeypatch.setenv("OST_INDEX_PUBLIC_PEER", "127.0.0.1:9")
    monkeypatch.setenv("OST_INDEX_PROVISIONER", provisioner)
    monkeypatch.setenv("OST_INDEX_PROVISION_DIR", "made" if provisioner == "local" else "")
    monkeypatch.setenv("OST_INDEX_PROVISION_COMMAND", "true" if provisioner == "command" else "")
    (cli.root / "index").mkdir(exist_ok=True)
    (cli.root / "index/index.sqlite").write_bytes(b"no database".ljust(4096))
    told = cli("run", made.file)
    assert told.code == 1
    assert "index.sqlite: file is not a database" in told.err
    assert "hint: see index.data_dir" in told.err
    assert "Traceback" not in told.err

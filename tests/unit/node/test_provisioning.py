"""Providers: what runs, with what in its environment, and when it is stopped; no real processes."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from ostnode.config import Config, JoinToken, parse_config
from ostnode.env import InlineWorker
from ostnode.ids import Principal, PrincipalKind
from ostnode.node import provisioning as p
from ostnode.node.seams import Seams
from ostnode.roles.index import Order, Provider
from tests.support.index_cluster import SeededRng

INDEX = Principal(b"i" * 32)
FIRST, AGAIN, SECOND = (
    Order(1, b"1" * 8, b"a" * 32),
    Order(1, b"2" * 8, b"b" * 32),
    Order(2, b"3" * 8, b"c" * 32),
)


class Input:
    """A process's standard input."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._process.stubborn:
            self._process.end(0)


class Process:
    """A process that ends when it is told to, at the end of its input, or killed."""

    pid = 4711

    def __init__(self, command: list[str], env: dict[str, str], stubborn: bool) -> None:
        self.command, self.env, self.stubborn = command, env, stubborn
        self.stdin = Input(self)
        self.started_at = trio.current_time()
        self.code: int | None = None
        self._ended = trio.Event()

    def end(self, code: int) -> None:
        self.code = code
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.code is not None
        return self.code

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.end(-9)


class Host:
    """Notes every process that is started."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.stubborn = False
        self.error: OSError | None = None

    async def open_process(self, command, *, stdin, env, start_new_session) -> Process:
        await trio.lowlevel.checkpoint()
        assert stdin == subprocess.PIPE
        assert start_new_session
        if self.error:
            raise self.error
        self.processes.append(Process(command, env, self.stubborn))
        return self.processes[-1]

    async def next(self) -> Process:
        """The one process, once it runs."""
        while not self.running:  # noqa: ASYNC110  in virtual time
            await trio.sleep(0.1)
        return self.running[0]

    @property
    def running(self) -> list[Process]:
        return [each for each in self.processes if each.code is None]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(trio.lowlevel, "open_process", host.open_process)
    monkeypatch.setenv("OST_INDEX_DATA_DIR", "/elsewhere")
    monkeypatch.setenv("LANG", "C")
    return host


def config(tmp_path: Path, **keys: object) -> Config:
    index = {
        "key_file": "index.key",
        "data_dir": "index",
        "http": "127.0.0.1:7100",
        "peer": "127.0.0.1:7101",
        "admin": "127.0.0.1:7102",
        "apps": [INDEX.text(PrincipalKind.APP)],
        **keys,
    }
    return parse_config({"cluster_id": "00" * 16, "index": index}, {}, base=tmp_path)


@asynccontextmanager
async def provider_of(made: Config) -> AsyncIterator[Provider | None]:
    assert made.index is not None
    seams = Seams(rng=SeededRng(), make_worker=lambda _threads: InlineWorker())
    async with p.open_provider(made, made.index, INDEX, seams) as provider:
        yield provider


@asynccontextmanager
async def local(tmp_path: Path) -> AsyncIterator[Provider]:
    async with provider_of(config(tmp_path, provisioner="local", provision_dir="more")) as found:
        assert found is not None
        yield found


async def test_none_is_no_provider(tmp_path: Path) -> None:
    async with provider_of(config(tmp_path)) as provider:
        assert provider is None


async def test_b35_local_runs_what_was_ordered_and_stops_it_in_the_end(
    autojump_clock, tmp_path: Path, host: Host
) -> None:
    async with local(tmp_path) as provider:
        provider.provide(FIRST)
        await trio.sleep(1)
        (process,) = host.running
        file = tmp_path / "more" / "bucket-1" / "bucket.toml"
        assert process.command[1:] == ["-m", "ostnode", "run", "--until-eof", str(file)]
        token = JoinToken(INDEX, "127.0.0.1:7101", FIRST.invite_id, FIRST.secret)
        assert process.env["OST_BUCKET_0_JOIN"] == token.text()
        assert process.env["LANG"] == "C"
        assert "OST_INDEX_DATA_DIR" not in process.env
    assert process.code == 0


async def test_b35_a_repeated_order_takes_the_place_of_the_first(
    autojump_clock, tmp_path: Path, host: Host
) -> None:
    async with local(tmp_path) as provider:
        provider.provide(FIRST)
        await trio.sleep(1)
        provider.provide(AGAIN)
        await trio.sleep(1)
        old, new = host.processes
        assert host.running == [new]
        assert old.env["OST_BUCKET_0_JOIN"] != new.env["OST_BUCKET_0_JOIN"]
        assert old.command == new.command


async def test_members_are_kept_running_and_others_are_not(
    autojump_clock, tmp_path: Path, host: Host
) -> None:
    async with local(tmp_path) as provider:
        provider.keep([1, 2])
        for _ in range(3):
            await trio.sleep(1)
            provider.keep([1, 2])
        assert len(host.processes) == len(host.running) == 2
        assert all("OST_BUCKET_0_JOIN" not in each.env for each in host.processes)
        provider.keep([2])
        await trio.sleep(1)
        assert len(host.running) == 1
        provider.provide(FIRST)
        await trio.sleep(1)
        provider.keep([2])
        await trio.sleep(1)
        assert len(host.running) == 2, "what was ordered is no member yet"


async def test_a_bucket_that_ends_is_started_again_less_and_less_often(
    autojump_clock, tmp_path: Path, host: Host
) -> None:
    async with local(tmp_path) as provider:
        provider.keep([1])
        for _ in range(10):
            (await host.next()).end(1)
            await trio.sleep(0.01)
        starts = [each.started_at for each in host.processes]
        gaps = [round(b - a) for a, b in pairwise(starts)]
        assert gaps[:6] == [1, 2, 4, 8, 16, 32]
        assert set(gaps[6:]) == {60}
        # One that ran for long starts at once again.
        process = await host.next()
        await trio.sleep(p.RESTART_S_MAX + 1)
        process.end(1)
        ended = trio.current_time()
        await trio.sleep(0.01)
        assert (await host.next()).started_at - ended <= p.RESTART_S + 0.1


async def test_a_bucket_that_does_not_stop_is_killed(
    autojump_clock, tmp_path: Path, host: Host
) -> None:
    host.stubborn = True
    async with local(tmp_path) as provider:
        provider.keep([1])
        await trio.sleep(1)
        started = trio.current_time()
    assert host.processes[0].code == -9
    assert trio.current_time() - started == pytest.approx(10 + p.STOP_MARGIN_S)


@pytest.mark.parametrize("what", ["no process", "no directory"])
async def test_b35_what_cannot_be_made_is_told_and_tried_again(
    what: str, autojump_clock, tmp_path: Path, host: Host, capsys
) -> None:
    if what == "no process":
        host.error = OSError("no more processes")
    else:
        (tmp_path / "more").write_text("a file")
    async with local(tmp_path) as provider:
        provider.provide(FIRST)
        await trio.sleep(1)
        assert "bucket_not_provided" in capsys.readouterr().out
        host.error = None
        (tmp_path / "more").unlink() if what == "no directory" else None
        provider.keep([1])
        await trio.sleep(1)
        assert len(host.running) == 1


async def test_b35_a_command_gets_its_order_in_its_environment(
    autojump_clock, tmp_path: Path, host: Host, monkeypatch, capsys
) -> None:
    runs: list[tuple] = []

    async def run_process(command, *, env, check) -> subprocess.CompletedProcess:
        runs.append((command, env, check))
        if len(runs) == 3:
            await trio.sleep_forever()
        return subprocess.CompletedProcess(command, returncode=len(runs) - 1)

    monkeypatch.setattr(trio, "run_process", run_process)
    keys = {"provision_command": ["make", "it"], "provision_retry": "20s"}
    async with provider_of(config(tmp_path, provisioner="command", **keys)) as provider:
        assert provider is not None
        provider.keep([1, 2])
        provider.provide(FIRST)
        await trio.sleep(1)
        ((command, env, check),) = runs
        assert (command, check) == (("make", "it"), False)
        token = JoinToken(INDEX, "127.0.0.1:7101", FIRST.invite_id, FIRST.secret)
        assert env["OST_JOIN"] == token.text()
        assert (env["OST_BUCKET_NUMBER"], env["OST_CLUSTER_ID"]) == ("1", "00" * 16)
        assert "OST_INDEX_DATA_DIR" not in env
        assert "failed" not in capsys.readouterr().out
        provider.provide(AGAIN)
        await trio.sleep(1)
        assert "provision_command_failed" in capsys.readouterr().out
        provider.provide(SECOND)
        await trio.sleep(19)
        assert "cut" not in capsys.readouterr().out
        await trio.sleep(2)
        assert "provision_command_cut" in capsys.readouterr().out

"""`ostnode bucket`, against a scripted bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ostnode.cli.failures import ExitCode
from ostnode.config import load_config
from ostnode.errors import NotAuthorizedError
from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal, PrincipalKind
from ostnode.keyfiles import load_seed
from ostnode.node.dev import prepare_dev
from ostnode.node.layout import DevLayout
from ostnode.node.memory import MembershipFile, Remembered
from ostnode.wire import messages as m
from ostnode.wire import upkeep as u
from tests.support.cli import ADDRESS, BLOB, BUCKET, Cli, Result
from tests.support.index_cluster import SeededRng

PLACE = f"{BUCKET.principal.text(PrincipalKind.BUCKET)}@{ADDRESS.http}"
CHAT = KeyPair.from_seed(b"chat".ljust(32, b".")).principal
FINDING = u.Finding("payload", 3, 4096, 17, 1_700_000_000, BLOB, (CHAT,))
COMPACTION = u.CompactionInfo("idle", "", 0, 0, 0, 0, 0, 0, 7, 5 << 20, 0, 1, 1_700_000_000)
SCRUB = u.ScrubInfo("running", 2, 99, 1 << 20, 4 << 20, 1_700_000_000, 0, 8192, 0)
INFO = u.MaintenanceInfo(
    paused=False,
    full=False,
    space=m.Space(100 << 30, 50 << 30, 4 << 20),
    segments=u.SegmentTotals(3, 4 << 20, 5 << 20, 1 << 20),
    key_index=7 << 20,
    corrupt_reads=0,
    compaction=COMPACTION,
    scrub=SCRUB,
)
PLAN = u.CompactionPlan(0, 3, 3, 1, 4096, 9 << 20, (u.PlannedSegment(2, 10 << 20, 4096, 9 << 20),))


@dataclass
class ScriptedBucket:
    """Answers with INFO, changed step by step by `steps`."""

    calls: list[tuple] = field(default_factory=list)
    info: u.MaintenanceInfo = INFO
    steps: Iterator[u.CompactionInfo] = field(default_factory=lambda: iter(()))
    refusal: Exception | None = None

    async def maintenance_status(self, bucket: m.BucketAddress) -> u.MaintenanceInfo:
        self.calls.append(("status", bucket))
        if self.refusal is not None:
            raise self.refusal
        return replace(self.info, compaction=next(self.steps, self.info.compaction))

    async def compact_bucket(self, bucket: m.BucketAddress, *, dry_run: bool) -> u.CompactionPlan:
        self.calls.append(("compact", dry_run))
        return PLAN if dry_run else replace(PLAN, pass_number=1)

    async def pause_maintenance(self, bucket: m.BucketAddress, *, paused: bool) -> None:
        self.calls.append(("pause", paused))

    async def start_scrub(self, bucket: m.BucketAddress) -> None:
        self.calls.append(("scrub", bucket))

    async def forget_findings(self, bucket: m.BucketAddress) -> None:
        self.calls.append(("forget", bucket))


@pytest.fixture
def bucket(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> ScriptedBucket:
    monkeypatch.delenv("OST_BUCKET", raising=False)
    monkeypatch.setattr("ostnode.cli.bucket._POLL_S", 0)
    monkeypatch.setattr("ostnode.cli.bucket._TOLD_EVERY_S", 0)
    scripted = ScriptedBucket()
    cli.client = scripted
    return scripted


def ask(cli: Cli, *arguments: object) -> Result:
    return cli("bucket", *arguments, "--bucket", PLACE, "--key", cli.root / "caller.key")


def test_status_is_readable_and_complete(cli: Cli, bucket: ScriptedBucket) -> None:
    lines = ask(cli, "status").out
    for text in (
        "accepted",
        "50.0 GiB",
        "7.0 MiB",
        "idle",
        "running",
        "1.0 MiB (1048576 B) of 4.0 MiB",
    ):
        assert text in lines
    assert cli.connected == [(ADDRESS.http, cli.key.principal, BUCKET.principal)]
    shown = ask(cli, "status", "--json").json
    assert (shown["compaction"]["freed"], shown["scrub"]["position"]) == (5 << 20, 99)
    bucket.info = replace(INFO, full=True)
    assert "refused: full" in ask(cli, "status").out


def test_a_dry_run_shows_what_would_be_freed(cli: Cli, bucket: ScriptedBucket) -> None:
    lines = ask(cli, "compact", "--dry-run", "--wait").out
    assert lines.splitlines()[-1].startswith("2        10.0 MiB")
    assert "frees       9.0 MiB" in lines
    assert bucket.calls == [("compact", True)]


def test_compact_waits_for_its_pass_when_told_to(cli: Cli, bucket: ScriptedBucket) -> None:
    assert ask(cli, "compact").code == 0
    assert bucket.calls == [("compact", False)]
    running = replace(COMPACTION, state="running", doing="copying", asked=1, pass_total=3)
    ended = replace(COMPACTION, passes=1, asked=1, pass_freed=8 << 20)
    bucket.steps = iter([running, running, ended])
    waited = ask(cli, "compact", "--wait", "--json")
    assert waited.json["freed"] == 8 << 20
    assert not waited.err
    bucket.steps = iter([running, running, ended])
    assert "copying: 0 of 3 segments, freed 0 B" in ask(cli, "compact", "--wait").err


def test_a_pause_is_told_to_whoever_looks_or_waits(cli: Cli, bucket: ScriptedBucket) -> None:
    assert "maintenance    allowed" in ask(cli, "status").out
    bucket.info = replace(INFO, paused=True)
    assert "maintenance    paused" in ask(cli, "status").out
    held = replace(COMPACTION, state="paused", doing="judging", asked=1, pass_total=3)
    bucket.steps = iter([held, replace(COMPACTION, passes=1, asked=1)])
    assert "paused (`ostnode bucket resume`): 0 of 3" in ask(cli, "compact", "--wait").err


def test_a_restart_while_it_waits_is_told(cli: Cli, bucket: ScriptedBucket) -> None:
    bucket.steps = iter([replace(COMPACTION, asked=1)])
    done = ask(cli, "compact", "--wait")
    assert done.code == ExitCode.FAILED
    assert "restarted" in done.err


def test_scrub_tells_of_damage_with_exit_code_7(cli: Cli, bucket: ScriptedBucket) -> None:
    whole = ask(cli, "scrub", "--status")
    assert (whole.code, "no damage" in whole.out) == (0, True)
    bucket.info = replace(INFO, scrub=replace(SCRUB, findings=1), findings=(FINDING,))
    told = ask(cli, "scrub", "--status")
    assert told.code == ExitCode.INTEGRITY
    assert told.err.splitlines()[0] == "error: damage on record: 1"
    assert str(BLOB) in told.out
    assert CHAT.text(PrincipalKind.ACCESSOR) in told.out
    assert "segment 3 at 4096" in told.out
    shown = ask(cli, "scrub", "--json")
    assert shown.code == ExitCode.INTEGRITY
    assert shown.json["findings"][0]["blob_id"] == str(BLOB)


def test_scrub_start_pause_and_resume(cli: Cli, bucket: ScriptedBucket) -> None:
    for words in (("scrub", "--start"), ("pause",), ("resume",)):
        assert ask(cli, *words).code == 0
    assert bucket.calls == [("scrub", ADDRESS), ("pause", True), ("pause", False)]
    assert ask(cli, "scrub", "--start", "--status").code == ExitCode.USAGE


def test_findings_are_forgotten_before_a_scrub(cli: Cli, bucket: ScriptedBucket) -> None:
    assert ask(cli, "scrub", "--start", "--forget").code == 0
    assert bucket.calls == [("forget", ADDRESS)]
    for words in ((), ("--status",)):
        assert ask(cli, "scrub", "--forget", *words).code == ExitCode.USAGE
    assert len(bucket.calls) == 1


def test_whoever_is_no_operator_is_refused(cli: Cli, bucket: ScriptedBucket) -> None:
    bucket.refusal = NotAuthorizedError("maintenance_status is not for this caller")
    assert ask(cli, "status").code == ExitCode.NOT_ALLOWED


def test_beside_a_dev_cluster_its_first_bucket_is_meant(cli: Cli, bucket: ScriptedBucket) -> None:
    assert cli("bucket", "status").code == ExitCode.USAGE
    layout = DevLayout(Path("ost-data"))
    prepare_dev(layout, SeededRng())
    config = load_config(layout.config_file, {})
    assert cli("bucket", "status").code == 0
    (first, *_) = config.bucket
    ((url, caller, principal),) = cli.connected
    assert principal == KeyPair.from_seed(load_seed(first.key_file)).principal
    assert url == first.public_url
    assert caller in first.operators
    # Its name stays when its key has changed.
    name = Principal(b"n" * 32)
    assert config.index is not None
    first.data_dir.mkdir(exist_ok=True)
    MembershipFile(first.data_dir).save(Remembered(config.cluster_id, name, name, "h:1"))
    assert cli("bucket", "status").code == 0
    assert cli.connected[-1] == (first.public_url, caller, name)

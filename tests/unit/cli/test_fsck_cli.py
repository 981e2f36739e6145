"""`ostnode fsck`, `bucket forget`, `cluster events` and `index restored`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ostnode.ids import BlobId, PrincipalKind
from ostnode.wire import checking as ck
from tests.support.cli import BLOB, BUCKET, UID, Cli
from tests.support.index_cluster import an_index
from tests.support.nodes import one_process

BUCKET_NAME = BUCKET.principal.text(PrincipalKind.BUCKET)


def progress(state: str, *, done: bool) -> ck.CheckProgress:
    bucket = ck.BucketCheck(BUCKET.principal, state, 7, 1)
    return ck.CheckProgress(5, done, False, 30, 0, (bucket,))


def finding(kind: str, *, repaired: bool = False) -> ck.CheckFinding:
    return ck.CheckFinding(kind, BUCKET.principal, UID, BLOB, b"", 3, 0, 1_700_000_000, repaired)


def test_fsck_of_a_whole_cluster_is_short(cli: Cli) -> None:
    cli.client.checks = [progress("running", done=False), progress("done", done=True)]
    cli.client.findings = [ck.FindingPage(())]
    told = cli.as_caller("fsck", "--quiet")
    assert told.code == 0
    assert "index and buckets agree" in told.out
    assert cli.client.calls[:2] == [("start_check", None, False), ("check_progress", 5)]


def test_fsck_tells_how_far_it_is(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostnode.cli.fsck._TOLD_EVERY_S", 0)
    waiting = replace(progress("running", done=False), missing=(BUCKET.principal,))
    cli.client.checks = [waiting, replace(waiting, done=True)]
    cli.client.findings = [ck.FindingPage(())]
    told = cli.as_caller("fsck")
    assert "37 rows, 1 findings, 0 of 1 buckets compared" in told.err
    assert "restored, waits for" in told.out


def test_fsck_lists_findings_and_says_so_in_its_exit_code(cli: Cli) -> None:
    wrong = finding("charge_without_reference")
    cli.client.checks = [progress("done", done=True)] * 2
    cli.client.findings = [ck.FindingPage((wrong,), b"next"), ck.FindingPage(())] * 2
    told = cli.as_caller("fsck", "--bucket", BUCKET_NAME)
    assert told.code == 7
    assert str(BLOB) in told.out
    assert ("start_check", BUCKET.principal, False) in cli.client.calls
    assert ("list_findings", BUCKET.principal, b"next") in cli.client.calls
    shown = cli.as_caller("fsck", "--json").json
    assert [row["kind"] for row in shown["findings"]] == ["charge_without_reference"]


def test_fsck_repairs_on_request_alone(cli: Cli) -> None:
    cli.client.checks = [progress("done", done=True)]
    cli.client.findings = [ck.FindingPage((finding("wrong_size", repaired=True),))]
    told = cli.as_caller("fsck", "--repair")
    assert told.code == 0
    assert "repaired" in told.out
    assert cli.client.calls[0] == ("start_check", None, True)


def test_what_is_wrong_is_found_behind_many_lost_blobs(cli: Cli) -> None:
    lost = ck.FindingPage((finding("lost_blob", repaired=True),) * 100, b"next")
    cli.client.checks = [progress("done", done=True)]
    cli.client.findings = [lost] * 11 + [ck.FindingPage((finding("wrong_size"),))]
    told = cli.as_caller("fsck", "--json")
    assert told.code == 7
    kinds = [row["kind"] for row in told.json["findings"]]
    assert kinds == ["wrong_size"] + ["lost_blob"] * 1000


def test_fsck_tells_of_a_bucket_that_is_away(cli: Cli) -> None:
    cli.client.checks = [progress("away", done=True)]
    cli.client.findings = [ck.FindingPage((finding("lost_blob"),))]
    told = cli.as_caller("fsck")
    assert told.code == 6
    assert f"run this again when they are back:\n{BUCKET_NAME}" in told.out
    cli.client.checks, cli.client.findings = [progress("away", done=True)], [ck.FindingPage(())]
    assert "agree" not in cli.as_caller("fsck").out


def test_a_bucket_is_forgotten_slice_by_slice_and_its_blobs_are_listed(cli: Cli) -> None:
    other = BlobId(b"o" * 32)
    cli.client.forgotten = [
        ck.Forgotten(done=False, after=b"x", charges=2, bytes=70, blobs=1),
        ck.Forgotten(done=True, grants=1, charges=1, bytes=3, blobs=1),
    ]
    rows = [finding("lost_blob"), finding("wrong_size")]
    cli.client.findings = [
        ck.FindingPage(tuple(rows), b"more"),
        ck.FindingPage((ck.CheckFinding(
            "lost_blob", BUCKET.principal, None, other, b"", 70, 2, 0, repaired=True
        ),)),
    ]  # fmt: skip
    shown = cli.as_caller("bucket", "forget", BUCKET_NAME, "--yes", "--json").json
    assert (shown["charges"], shown["grants"], shown["bytes"]) == (3, 1, 73)
    assert [row["blob_id"] for row in shown["lost"]] == [str(BLOB), str(other)]
    assert ("forget_bucket", BUCKET.principal, b"x") in cli.client.calls


def test_odd_events_are_listed_and_dismissed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> ck.RejectedPage:
        await trio.lowlevel.checkpoint()
        return ck.RejectedPage((), more=False)

    lines = cli.as_caller("cluster", "events", "ls").out
    assert lines.count("no such grant") == 2
    with monkeypatch.context() as patch:
        patch.setattr(cli.client, "list_rejected", nothing)
        assert cli.as_caller("cluster", "events", "ls").out == "no event was set aside\n"
    cli.as_caller("cluster", "events", "dismiss", BUCKET_NAME, "7")
    cli.as_caller("cluster", "events", "dismiss", BUCKET_NAME)
    assert cli.client.calls[-2:] == [
        ("dismiss_rejected", BUCKET.principal, 7),
        ("dismiss_rejected", BUCKET.principal, 0),
    ]


def test_the_status_names_whom_a_restored_index_waits_for(cli: Cli) -> None:
    cli.client.checks = [ck.CheckProgress(0, True, False, 0, 0, (), (BUCKET.principal,))]
    lines = cli.as_caller("cluster", "status").out
    assert "restored, waits for" in lines
    assert lines.rstrip().endswith(BUCKET_NAME)


def test_an_index_is_told_that_it_was_restored(cli: Cli, tmp_path: Path) -> None:
    made = one_process(tmp_path, index_peer="127.0.0.1:0")
    assert made.config.index is not None
    directory = made.config.index.data_dir
    assert "holds no index database" in cli("index", "restored", "--config", made.file).err

    async def run_once() -> tuple[int, list[str]]:
        async with an_index(directory=directory, buckets=2) as index:
            refused = await trio.to_thread.run_sync(
                lambda: cli("index", "restored", "--config", made.file)
            )
            assert "in use" in refused.err
            names = [end.key.principal.text(PrincipalKind.BUCKET) for end in index.buckets]
            return (await index.status()).incarnation, names

    before, names = trio.run(run_once)
    told = cli("index", "restored", "--config", made.file, "--json").json
    assert told["incarnation"] > before
    assert sorted(told["waits_for"]) == sorted(names)
    assert cli("index", "restored", "--config", made.file).code == 0


def test_a_bucket_has_no_index_to_restore(cli: Cli, tmp_path: Path) -> None:
    made = one_process(tmp_path, index_peer="127.0.0.1:0")
    alone = tmp_path / "bucket.toml"
    alone.write_text(made.cluster.top() + made.cluster.bucket_table(made.cluster.buckets[0]))
    assert cli("index", "restored", "--config", alone).code == 2

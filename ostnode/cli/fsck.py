"""`ostnode fsck`: compare the index with its buckets, and mend what is asked for."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final

import click
import trio

from ostnode.cli.failures import ExitCode
from ostnode.cli.output import Output, Value, json_option, lines_of, pass_output, table, time_text
from ostnode.cli.parameters import BUCKET_PRINCIPAL
from ostnode.cli.target import Target, client_options
from ostnode.client import Client
from ostnode.ids import Principal, PrincipalKind
from ostnode.wire.checking import BucketCheck, CheckFinding, CheckProgress
from ostnode.wire.jsonmap import to_json

_POLL_S: Final = 0.25
_TOLD_EVERY_S: Final = 2.0
_SHOWN_MAX: Final = 1000
_PAGES_MAX: Final = 1000
"""Lost blobs may be many, and stand between other findings: 100,000 are read over."""


@click.command("fsck")
@click.option("--repair", is_flag=True, help="Mend what is found; without it nothing is changed.")
@click.option("--bucket", "only", type=BUCKET_PRINCIPAL, help="Compare with this bucket alone.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@pass_output
@client_options
def fsck(
    target: Target, output: Output, *, repair: bool, only: Principal | None, quiet: bool
) -> int:
    """Compare what the index charges with what the buckets hold, while all of them work on.

    Findings are listed, and kept until the next check. Exits with 7 when something is wrong that
    was not repaired, with 6 when a bucket could not be compared.
    """

    async def call(client: Client) -> tuple[CheckProgress, list[CheckFinding]]:
        progress = await client.start_check(only, repair=repair)
        told_at = trio.current_time()
        while not progress.done:
            if not quiet and trio.current_time() - told_at >= _TOLD_EVERY_S:
                click.echo(_progress_text(progress), err=True)
                told_at = trio.current_time()
            await trio.sleep(_POLL_S)
            progress = await client.check_progress(progress.run)
        return progress, await _findings(client, only)

    progress, findings = target.run(call)
    output.result(_as_json(progress, findings), _text(progress, findings))
    sys.stdout.flush()
    if any(not row.repaired for row in findings if row.kind != _LOST):
        return ExitCode.INTEGRITY
    return ExitCode.UNREACHABLE if any(map(_is_away, progress.buckets)) else ExitCode.OK


def _is_away(bucket: BucketCheck) -> bool:
    return bucket.state == "away"


_LOST: Final = "lost_blob"
"""What a forgotten bucket had: told for the operator, and wrong no more."""


async def _findings(client: Client, only: Principal | None) -> list[CheckFinding]:
    """What is wrong, and lost blobs: as many of either as are shown."""
    wrong: list[CheckFinding] = []
    lost: list[CheckFinding] = []
    after = b""
    for _ in range(_PAGES_MAX):
        page = await client.list_findings(only, after=after)
        for row in page.findings:
            rows = lost if row.kind == _LOST else wrong
            if len(rows) < _SHOWN_MAX:
                rows.append(row)
        after = page.after
        if not after or len(wrong) == _SHOWN_MAX:
            break
    return wrong + lost


def _as_json(progress: CheckProgress, findings: Sequence[CheckFinding]) -> dict[str, Value]:
    told = to_json(progress)
    assert isinstance(told, dict)
    return {**told, "findings": [to_json(row) for row in findings]}


def _progress_text(progress: CheckProgress) -> str:
    rows = progress.rows + sum(bucket.compared for bucket in progress.buckets)
    found = progress.findings + sum(bucket.findings for bucket in progress.buckets)
    done = sum(bucket.state == "done" for bucket in progress.buckets)
    return f"{rows} rows, {found} findings, {done} of {len(progress.buckets)} buckets compared"


def _text(progress: CheckProgress, findings: Sequence[CheckFinding]) -> str:
    heads = ("bucket", "state", "compared", "findings")
    buckets = [
        (row.bucket.text(PrincipalKind.BUCKET), row.state, str(row.compared), str(row.findings))
        for row in progress.buckets
    ]
    parts = [table([heads, *buckets])]
    if progress.missing:
        names = [bucket.text(PrincipalKind.BUCKET) for bucket in progress.missing]
        parts.append(lines_of({"restored, waits for": names}))
    if findings:
        parts += [lines_of(dict(Counter(row.kind for row in findings))), _rows(findings)]
    away = [row.bucket.text(PrincipalKind.BUCKET) for row in progress.buckets if _is_away(row)]
    if away:
        parts.append("not compared; run this again when they are back:\n" + "\n".join(away))
    elif not findings:
        parts.append("index and buckets agree")
    return "\n\n".join(parts)


def _rows(findings: Sequence[CheckFinding]) -> str:
    heads = ("kind", "index", "found", "uid", "blob or grant", "bucket", "since", "")
    rows = [
        (
            row.kind,
            str(row.expected),
            str(row.found),
            str(row.uid or "-"),
            str(row.blob_id or row.grant_id.hex() or "-"),
            row.bucket.text(PrincipalKind.BUCKET) if row.bucket else "-",
            time_text(row.found_at),
            "repaired" if row.repaired else "",
        )
        for row in findings
    ]
    return table([heads, *rows])

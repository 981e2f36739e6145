"""`ostnode bucket`: compaction, scrub and space of one bucket, for its operators.

Joining and leaving stands in `ostnode.cli.members`, states in `ostnode.cli.states`.
"""

from __future__ import annotations

import click
import trio

from ostnode.cli import members, states
from ostnode.cli.failures import CommandError, ExitCode
from ostnode.cli.output import (
    Output,
    Value,
    json_option,
    lines_of,
    pass_output,
    size_text,
    table,
    time_text,
)
from ostnode.cli.restoring import forget
from ostnode.cli.target import BucketTarget, bucket_options
from ostnode.client import Client
from ostnode.ids import PrincipalKind
from ostnode.wire.jsonmap import to_json
from ostnode.wire.upkeep import CompactionPlan, Finding, MaintenanceInfo

_POLL_S = 0.2
_TOLD_EVERY_S = 2.0


@click.group()
def bucket() -> None:
    """See to one bucket (--bucket), or to who belongs to the cluster (--index)."""


bucket.add_command(forget)
for _command in (*members.COMMANDS, *states.COMMANDS):
    bucket.add_command(_command)


@bucket.command("status")
@json_option
@pass_output
@bucket_options
def status(target: BucketTarget, output: Output) -> None:
    """Print what is stored, what is dead, and how compaction and scrub do."""
    info = _status(target)
    text = "\n\n".join([_disk_text(info), _compaction_text(info), _scrub_text(info)])
    output.result(to_json(info), text)


@bucket.command("compact")
@click.option("--dry-run", is_flag=True, help="Only say what would be rewritten and freed.")
@click.option("--wait", is_flag=True, help="Return when the pass has ended.")
@json_option
@pass_output
@bucket_options
def compact(target: BucketTarget, output: Output, *, dry_run: bool, wait: bool) -> None:
    """Give the space of deleted blobs back: rewrite whatever is more than a tenth dead."""

    async def call(client: Client) -> tuple[CompactionPlan, MaintenanceInfo | None]:
        plan = await client.compact_bucket(target.bucket, dry_run=dry_run)
        if dry_run or not wait:
            return plan, None
        return plan, await _ended(client, target, plan.pass_number, quiet=output.as_json)

    plan, info = target.run(call)
    data = to_json(plan)
    text = _plan_text(plan)
    if info is not None:
        data["freed"] = info.compaction.pass_freed
        data["skipped"] = info.compaction.skipped
        text = f"{text}\n\n{_compaction_text(info)}"
    output.result(data, text)


@bucket.command("scrub")
@click.option("--start", is_flag=True, help="Begin to read everything again, now.")
@click.option(
    "--forget",
    is_flag=True,
    help="With --start: strike out damage that makes no blob unreadable, and find what is left.",
)
@click.option("--status", "show", is_flag=True, help="Print the state and what is damaged.")
@json_option
@pass_output
@bucket_options
def scrub(target: BucketTarget, output: Output, *, start: bool, forget: bool, show: bool) -> None:
    """Show what reading everything again has found, or start it. Exit code 7: there is damage.

    A damaged blob is healed by uploading it again, or when a later cycle reads it well. Other
    damage stays on record until you have seen to it: `store verify` tells what it means.
    """
    if start and show:
        raise click.UsageError("pass --start or --status")
    if forget and not start:
        raise click.UsageError("--forget goes with --start")
    if start:

        async def call(client: Client) -> None:
            await (client.forget_findings if forget else client.start_scrub)(target.bucket)

        target.run(call)
        output.result({"started": True})
        return
    info = _status(target)
    told = to_json(info)
    text = f"{_scrub_text(info)}\n\n{_findings_text(info)}"
    output.result({"scrub": told["scrub"], "findings": told["findings"]}, text)
    if info.scrub.findings:
        raise CommandError(
            f"damage on record: {info.scrub.findings}",
            "uploading a damaged blob again heals it; `--start --forget` strikes the rest out",
            ExitCode.INTEGRITY,
        )


@bucket.command("pause")
@json_option
@pass_output
@bucket_options
def pause(target: BucketTarget, output: Output) -> None:
    """Hold compaction and scrub where they are; a restart of the node lets them go on."""
    _pause(target, output, paused=True)


@bucket.command("resume")
@json_option
@pass_output
@bucket_options
def resume(target: BucketTarget, output: Output) -> None:
    """Let compaction and scrub go on."""
    _pause(target, output, paused=False)


def _pause(target: BucketTarget, output: Output, *, paused: bool) -> None:
    async def call(client: Client) -> None:
        await client.pause_maintenance(target.bucket, paused=paused)

    target.run(call)
    output.result({"paused": paused})


def _status(target: BucketTarget) -> MaintenanceInfo:
    async def call(client: Client) -> MaintenanceInfo:
        return await client.maintenance_status(target.bucket)

    return target.run(call)


async def _ended(
    client: Client, target: BucketTarget, number: int, *, quiet: bool
) -> MaintenanceInfo:
    """Wait for the pass of that number, telling now and then how far it is."""
    told_at = trio.current_time()
    while True:
        info = await client.maintenance_status(target.bucket)
        if info.compaction.passes >= number:
            return info
        if info.compaction.asked < number:
            raise CommandError("the bucket was restarted meanwhile", "run this again")
        if not quiet and trio.current_time() >= told_at + _TOLD_EVERY_S:
            told_at = trio.current_time()
            click.echo(_progress_text(info), err=True)
        await trio.sleep(_POLL_S)


def _progress_text(info: MaintenanceInfo) -> str:
    told = info.compaction
    doing = "paused (`ostnode bucket resume`)" if info.paused else told.doing or told.state
    freed = size_text(told.pass_freed)
    return f"{doing}: {told.pass_done} of {told.pass_total} segments, freed {freed}"


def _disk_text(info: MaintenanceInfo) -> str:
    return lines_of({
        "uploads": "refused: full" if info.full else "accepted",
        "stored": size_text(info.space.stored),
        "free": size_text(info.space.free),
        "segments": info.segments.count,
        "allocated": size_text(info.segments.allocated),
        "dead": f"about {size_text(info.segments.dead)}",
        "key_index": size_text(info.key_index),
        "corrupt_reads": info.corrupt_reads,
        "maintenance": "paused" if info.paused else "allowed",
    })


def _compaction_text(info: MaintenanceInfo) -> str:
    told = info.compaction
    return lines_of({
        "compaction": told.state,
        "segment": told.segment or None,
        "last_pass": time_text(told.ended_at),
        "freed_in_pass": size_text(told.pass_freed),
        "freed": size_text(told.freed + told.punched),
        "copied": size_text(told.copied),
        "skipped": told.skipped,
    })


def _scrub_text(info: MaintenanceInfo) -> str:
    told = info.scrub
    return lines_of({
        "scrub": told.state,
        "cycle": told.cycle,
        "read": f"{size_text(told.bytes_done)} of {size_text(told.bytes_total)}",
        "rate": f"{size_text(told.rate)}/s",
        "started": time_text(told.started_at),
        "last_ended": time_text(told.ended_at),
        "findings": told.findings,
    })


def _plan_text(plan: CompactionPlan) -> str:
    summary: dict[str, Value] = {
        "judged": f"{plan.judged} of {plan.sealed} sealed segments",
        "to_rewrite": plan.planned,
        "keeps": size_text(plan.keeps),
        "frees": size_text(plan.frees),
    }
    heads = ("segment", "on disk", "needed", "frees")
    rows = [
        (str(one.number), size_text(one.allocated), size_text(one.live), size_text(one.frees))
        for one in plan.segments
    ]
    return "\n\n".join([lines_of(summary), *([table([heads, *rows])] if rows else [])])


def _findings_text(info: MaintenanceInfo) -> str:
    heads = ("damaged", "blob", "accessors", "where", "since")
    rows = [_finding_row(finding) for finding in info.findings]
    return table([heads, *rows]) if rows else "no damage"


def _finding_row(finding: Finding) -> tuple[str, ...]:
    accessors = [accessor.text(PrincipalKind.ACCESSOR) for accessor in finding.accessors]
    return (
        finding.what,
        "-" if finding.blob_id is None else str(finding.blob_id),
        ", ".join(accessors) or "-",
        f"segment {finding.segment} at {finding.offset}",
        time_text(finding.since),
    )

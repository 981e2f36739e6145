"""`ostnode demo`: the eight steps, and however they end, nothing left running."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import click
import trio

from ostnode.cli.demo.cleanup import delete_everything
from ostnode.cli.demo.faults import kill_and_resume
from ostnode.cli.demo.processes import Cluster, ProcessFailedError, running_cluster
from ostnode.cli.demo.sharing import (
    exceed,
    forward,
    post_files,
    read_files,
    register,
    share_one_copy,
)
from ostnode.cli.demo.stage import Stage, UnexpectedError, eventually
from ostnode.cli.demo.world import World, open_world
from ostnode.cli.failures import CommandError, failure_of
from ostnode.cli.output import Output, json_option, pass_output

Step = Callable[[World], Awaitable[None]]

STEPS: Final[Sequence[tuple[str, Step]]] = (
    ("the app registers two users and makes a chat", register),
    ("alice uploads three files in parallel chunks", post_files),
    ("bob reads them, a stranger does not", read_files),
    ("bob uploads what alice has uploaded: one copy, two charges", share_one_copy),
    ("bob forwards a blob to a second chat", forward),
    ("an upload over the allowance is refused", exceed),
    ("a bucket is killed in the middle of an upload, which resumes", kill_and_resume),
    ("a message is deleted, then the chats", delete_everything),
)


@click.command()
@click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    help="Upload this file of yours instead of the repository's README.",
)
@json_option
@pass_output
def demo(output: Output, file: Path | None) -> None:
    """Show every flow on one index and two buckets, each a process of its own."""
    stage = Stage(quiet=output.as_json)
    with tempfile.TemporaryDirectory(prefix="ostnode-demo-") as root:
        trio.run(run_demo, stage, Path(root), file)
    output.result({"steps": stage.data(), "ok": True}, f"\n{stage.table()}\ndemo: ok")


async def run_demo(stage: Stage, root: Path, own: Path | None = None) -> None:
    """Run all steps on a cluster under `root`; raises CommandError for the first that fails.

    Ctrl-C and SIGTERM end the demo and its processes.
    """
    async with trio.open_nursery() as nursery:
        await nursery.start(_end_on_signal)
        async with running_cluster(root) as cluster:
            stage.say(f"one index and two buckets run under {root}")
            async with open_world(stage, cluster, own) as world:
                await _all_buckets_active(world)
                for title, step in STEPS:
                    await _run(stage, cluster, title, step, world)
        nursery.cancel_scope.cancel()


async def _run(stage: Stage, cluster: Cluster, title: str, step: Step, world: World) -> None:
    try:
        with stage.step(title):
            await step(world)
    except Exception as error:
        logs = "\n".join(node.log_tail() for node in cluster.nodes)
        number = len(stage.steps)
        raise CommandError(f"step {number} failed: {_told(error)}\n{logs}", "") from error


def _told(error: Exception) -> str:
    """What was expected and seen."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, UnexpectedError | ProcessFailedError):
        return str(error)
    failure = failure_of(error)
    seen = f"{type(error).__name__}: {failure.message if failure else error}"
    return str(UnexpectedError("a call", "success", seen))


async def _all_buckets_active(world: World) -> None:
    async def states() -> list[str]:
        info = await world.app.client.cluster_status()
        return [bucket.state for bucket in info.buckets]

    await eventually("states of the buckets", ["active", "active"], states)


async def _end_on_signal(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            raise KeyboardInterrupt

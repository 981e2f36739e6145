"""One simulation from beginning to end: people at work under faults, healing, rest, reckoning."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from ostnode.sim.calling import Lines, NoAnswerError, ViolationError
from ostnode.sim.cases import Case
from ostnode.sim.invariants import rest_problems
from ostnode.sim.people import Device
from ostnode.sim.pictures import BucketPicture, IndexPicture
from ostnode.sim.ruling import App
from ostnode.sim.stage import Stage
from ostnode.sim.watching import Watch
from ostnode.sim.workload import ACCOUNTS, DEVICES_PER_ACCOUNT, Step, account_of, actor_name
from ostnode.sim.world import World, run_world
from ostnode.store.simdisk import SimIndex

REST_S: Final = 900.0
"""After healing, everything must have come to rest within this: a grant's life (a minute), the
grace of its upload (two), the expiry of what it left, every feed poll and floor on the way."""
_REST_POLL_S: Final = 10.0
_PEOPLE_S: Final = 1200.0
"""Everybody has ended the last step this long after healing."""
_HISTORY_LINES: Final = 400
_WIRE: Final = " #"
"""In lines about bytes that arrive: too many for people."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went; `problem` is empty when every promise was kept.

    `simulated_s` is of virtual time, `real_s` of the processor's.
    """

    case: Case
    problem: str
    digest: str
    simulated_s: float
    real_s: float
    counts: Mapping[str, int] = field(default_factory=dict)
    looks: int = 0
    history: Sequence[str] = ()


@dataclass(slots=True)
class _Result:
    problem: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    looks: int = 0


def run_case(case: Case) -> Outcome:
    """Run it; whatever goes wrong is told in the outcome."""
    history: deque[str] = deque(maxlen=_HISTORY_LINES)
    result = _Result()
    started = time.process_time()
    digest, seconds = "", 0.0

    async def main(world: World) -> None:
        await _play(world, case.steps, result)

    def note(line: str) -> None:
        if _WIRE not in line:
            history.append(line)

    try:
        ran = run_world(case.plan, main, note)
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  all that comes out is told
        result.problem = result.problem or f"the simulation failed: {_told(error)}"
    else:
        digest, seconds = ran.digest, ran.seconds
    return Outcome(
        case=case,
        problem=result.problem,
        digest=digest,
        simulated_s=seconds,
        real_s=time.process_time() - started,
        counts=result.counts,
        looks=result.looks,
        history=tuple(history),
    )


async def _play(world: World, steps: Sequence[Step], result: _Result) -> None:
    """Everything, until it is over or a promise is broken."""
    async with trio.open_nursery() as nursery:
        stage = Stage(world, Lines(world, nursery), world.seed)
        watch = Watch(stage)
        result.counts = stage.counts
        watch.start()
        nursery.start_soon(_end_on, watch, nursery.cancel_scope)
        try:
            await _work(stage, steps)
            await _rest(stage, watch)
        except* ViolationError as group:
            result.problem = _told(group)
        nursery.cancel_scope.cancel()
    result.problem = watch.found or result.problem
    result.looks = watch.looks


async def _end_on(watch: Watch, scope: trio.CancelScope) -> None:
    await watch.news.wait()
    scope.cancel()


async def _work(stage: Stage, steps: Sequence[Step]) -> None:
    """Everybody's steps, under faults; then the healing, and the end of what is being done."""
    world, app = stage.world, App(stage)
    await app.begin()
    done = trio.Event()
    async with trio.open_nursery() as people:
        people.start_soon(_heal_after, stage, steps, done)
        async with trio.open_nursery() as actors:
            actors.start_soon(_play_app, app, [step for step in steps if not step.actor])
            for actor in range(1, 1 + ACCOUNTS * DEVICES_PER_ACCOUNT):
                account = stage.model.accounts[account_of(actor)]
                device = Device(stage, account, actor_name(actor))
                mine = [step for step in steps if step.actor == actor]
                actors.start_soon(_play_device, device, mine)
        done.set()
    world.trace("everybody is done")


async def _heal_after(stage: Stage, steps: Sequence[Step], done: trio.Event) -> None:
    """Faults end when they are over, or the steps are; then people must get on."""
    last = max((fault.at_s + fault.for_s for fault in stage.world.plan.faults), default=0.0)
    with trio.move_on_after(last):
        await trio.sleep_forever()
    stage.world.trace("healing")
    await stage.world.heal()
    stage.healed_at = stage.now
    with trio.move_on_after(_PEOPLE_S + sum(step.pause_s for step in steps)):
        await done.wait()
        return
    raise stage.violated("people are not answered after everything is healed")


async def _play_app(app: App, steps: Sequence[Step]) -> None:
    for step in steps:
        await trio.sleep(step.pause_s)
        await app.play(step)


async def _play_device(device: Device, steps: Sequence[Step]) -> None:
    for step in steps:
        await trio.sleep(step.pause_s)
        await device.play(step)


async def _rest(stage: Stage, watch: Watch) -> None:
    """Wait until nothing moves, and compare what is there with what was promised.

    Then once more, when everything that can be compacted is, and every process is another.
    """
    await _converge(stage, watch)
    if stage.restored:
        await App(stage).repair_everything()
        await _converge(stage, watch)
    _reckon(stage, watch)
    await _use_again(stage)
    await _start_anew(stage, watch)  # which seals what was written to
    await App(stage).compact_everything()
    await _start_anew(stage, watch)
    await _converge(stage, watch)
    _reckon(stage, watch)
    await App(stage).check_everything()


async def _start_anew(stage: Stage, watch: Watch) -> None:
    """End every process and start another; buckets without their key indexes, as the log is all."""
    world = stage.world
    for name in world.nodes:
        await world.stop(name)
        for node in world.buckets:
            if node.name == name:
                node.disk.index = SimIndex()
        await world.start(name)
        watch.look()


def _reckon(stage: Stage, watch: Watch) -> None:
    index, buckets = watch.look()
    _resolve(stage, index)
    held = {bucket.principal: bucket.references for bucket in buckets}
    for problem in stage.model.unkept_at_rest(held, stage.now, stage.skew_s):
        raise stage.violated(f"at rest: {problem}")


async def _converge(stage: Stage, watch: Watch) -> None:
    problem = "nobody has looked"
    deadline = trio.current_time() + REST_S
    while trio.current_time() < deadline:
        await trio.sleep(_REST_POLL_S)
        index, buckets = watch.pictures()
        problem = _unrested(stage, index, buckets)
        if not problem:
            stage.note("at rest")
            return
    raise stage.violated(f"no rest {REST_S:.0f} s after healing: {problem}")


def _unrested(stage: Stage, index: IndexPicture, buckets: list[BucketPicture]) -> str:
    down = [name for name, node in stage.world.nodes.items() if not node.running]
    if down:
        return f"{down[0]} is down"
    return next(rest_problems(index, buckets), "")


def _resolve(stage: Stage, index: IndexPicture) -> None:
    """Deletions that were never answered: by now the index knows for good."""
    model = stage.model
    model.burned |= model.burning & index.burned
    model.burning &= model.burned
    model.dead |= {uid for uid in model.dying if index.users[uid].deleted}


async def _use_again(stage: Stage) -> None:
    """The cluster still does what it is for: everybody's account, and an upload that is read."""
    account = stage.model.accounts[0]
    try:
        await App(stage).make_room(account)
        await Device(stage, account, "probe").probe()
    except NoAnswerError:
        raise stage.violated("nobody is answered though everything is healed") from None


def _told(error: BaseException) -> str:
    """The first failure of a group, with its kind unless it is a broken promise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ViolationError):
        return str(error)
    return f"{type(error).__name__}: {error}"

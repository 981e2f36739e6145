"""The in-process target: a world per case, virtual time, and everything inside to look at."""

from __future__ import annotations

import hashlib
import time
from functools import cache
from typing import Final

import trio
from typing_extensions import override

from ostnode.codec import encode
from ostnode.errors import OstError
from ostnode.fuzz.boundstream import BoundStream
from ostnode.fuzz.cases import PAUSE_S_MAX, Case, Dial, Greet, Layer, Prove, Send
from ostnode.fuzz.cast import STRANGERS, Cast
from ostnode.fuzz.links import frame
from ostnode.fuzz.playing import Dialled, Finding, Played, Player, Target
from ostnode.fuzz.watching import (
    StuckError,
    blocks_above,
    failure_name,
    failure_text,
    own_garbage,
    time_limited,
    watched_log,
)
from ostnode.fuzz.world import World, blob_id_of, open_world
from ostnode.identity.keys import verify
from ostnode.net.link import open_link
from ostnode.net.memory import memory_stream_pair
from ostnode.net.serve import serve_link
from ostnode.net.transport import LinkClosedError, Network
from ostnode.virtual import SeededRng, run_virtual
from ostnode.wire import messages as m
from ostnode.wire.calls import Kind
from ostnode.wire.fields import Request

PIPE_BYTES: Final = 8_192
"""Small, so that a node that queues what nobody reads shows it soon."""
HONEST_S: Final = 5.0
BLOCKS_BASE: Final = 600
BLOCKS_PER_LINK: Final = 400
BLOCKS_PER_REQUEST: Final = 150
BLOCKS_PER_BYTE: Final = 2
"""What a node may hold: little for a link, a task for each request in flight, and its message.

A link takes 310 and a request that waits 60, the fuzzer's own ends included. Of 6,000 cases none
held over 300 beside what is allowed for these.
"""
TASKS_PER_LINK: Final = 16
_ONCE: Final = Case(
    "once",
    Layer.CBOR,
    (
        Dial(0),
        Greet(0, "alice"),
        Prove(0, "alice"),
        Send(0, frame(encode({f"{number:04}": 0 for number in range(4_000)}))),
    ),
)
CPU_CASE_S: Final = 0.04
CPU_FRAME_S: Final = 0.001
CPU_BYTE_S: Final = 1e-6
CALIBRATION_ROUNDS: Final = 100_000
CALIBRATION_S: Final = 0.006
CPU_CONFIRMATIONS: Final = 4
"""A case that seems slow is played again: the least of the times counts."""


class InProcess(Target):
    """One world, behind `serve_link` on memory streams."""

    slack_s = 3.0
    patience_s = 700.0
    pause_s_max = PAUSE_S_MAX
    case_s_max = 2_000.0

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self._world, self._nursery = world, nursery
        self._rng = SeededRng("links")
        self._links = 0
        self._blocks = blocks_above(0)
        self._tasks = trio.lowlevel.current_statistics().tasks_living
        self._dialled: set[str] = set()
        self.findings: list[Finding] = []

    @override
    async def dial(self, to: str) -> Dialled:
        to = to if to in self._world.services else "index"
        ours, theirs = memory_stream_pair(PIPE_BYTES)
        self._links += 1
        self._dialled.add(to)
        binding = hashlib.sha256(self._world.cast.principal(to)).digest()
        self._nursery.start_soon(self._serve, to, BoundStream(theirs, binding))
        return Dialled(BoundStream(ours, binding), binding)

    @override
    def role(self, to: str) -> Kind:
        return Kind.BUCKET if to == "bucket" else Kind.INDEX

    async def _serve(self, to: str, stream: trio.abc.Stream) -> None:
        kind, service = self._world.services[to]
        cast = self._world.cast
        try:
            await serve_link(
                stream,
                signer=cast.key(to),
                verify=verify,
                services={kind: service},
                kinds_of=cast.kinds,
                rng=self._rng,
            )
        except Exception as error:  # noqa: BLE001  whatever comes out is a finding
            what = f"a connection's handler failed: {failure_name(error)}"
            self.findings.append(Finding(what, failure_text(error)))
        finally:
            await trio.aclose_forcefully(stream)

    @override
    def watch(self, played: Played) -> None:
        waiting = [
            asked
            for judge in played.judges
            for asked in judge.asked.values()
            if asked.answered_at < 0
        ]
        held = sum(asked.header_bytes for asked in waiting)
        limit = self._blocks + BLOCKS_BASE + BLOCKS_PER_LINK * self._links
        limit += BLOCKS_PER_REQUEST * len(waiting) + BLOCKS_PER_BYTE * held
        over = blocks_above(limit)
        if over:
            detail = f"{over - self._blocks} blocks for {self._links} links"
            played.findings.append(Finding("the node's memory grows without bound", detail))
            self._blocks = over
        tasks = trio.lowlevel.current_statistics().tasks_living - self._tasks
        if tasks > TASKS_PER_LINK * (self._links + 1) + 2 * len(waiting):
            played.found(["the node's tasks grow without bound"])

    @override
    async def probe(self, played: Played) -> None:
        for to in sorted(self._dialled or {"index"}):
            try:
                with trio.fail_after(HONEST_S):
                    await self._ask_honestly(to)
            except (LinkClosedError, OstError, trio.TooSlowError) as error:
                played.findings.append(Finding("an honest client is not answered", str(error)))

    async def _ask_honestly(self, to: str) -> None:
        """A new link and one call on it, by the product's own client."""
        world = self._world
        async with open_link(
            _Ways(self),
            to,
            signer=world.cast.key("bob"),
            verify=verify,
            expect=world.cast.principal(to),
            rng=self._rng,
        ) as link:
            question: Request = m.GetUser()
            if to == "bucket":
                key = world.cast.principal("bob")
                question = m.BlobInfoRequest(key, blob_id_of(b"nothing"))
            try:
                await link.call(question)
            except OstError as refusal:
                # The app of a case may have deleted its user, or blocked it.
                if refusal.code not in {"not_found", "user_unknown", "not_authorized"}:
                    raise

    def links_left(self) -> int:
        """Tasks that are left of connections."""
        return trio.lowlevel.current_statistics().tasks_living - self._tasks


class _Ways(Network):
    """A way for honest clients."""

    def __init__(self, target: InProcess) -> None:
        self._target = target

    @override
    async def connect(self, address: str) -> trio.abc.Stream:
        return (await self._target.dial(address)).stream

    @override
    async def serve(self, address: str, handler: object, **started: object) -> None:
        raise LinkClosedError("nobody listens here")


def play_in_process(case: Case, cast: Cast | None = None) -> Played:
    """Play a case in a new world; what seems slow is played again before it is believed."""
    _warm_up()
    cast = cast or Cast()
    played, cpu_s = _timed(case, cast)
    budget_s = CPU_CASE_S + CPU_BYTE_S * case.sent_bytes
    budget_s += CPU_FRAME_S * sum(judge.frames for judge in played.judges)
    if cpu_s > budget_s and not played.findings:
        cpu_s = min(cpu_s, *(_timed(case, cast)[1] for _ in range(CPU_CONFIRMATIONS)))
        if cpu_s > budget_s * _slowness():
            detail = f"{cpu_s:.2f} s of processor time for {case.sent_bytes} bytes"
            played.findings.append(Finding("the node works too long for what it was sent", detail))
    return played


@cache
def _warm_up() -> None:
    """Have everything made that is made once: plans of messages, and the keys codecs remember."""
    _timed(_ONCE, Cast())


def _slowness() -> float:
    """How much slower this machine is at the moment than the one that the budgets are from."""
    started = time.process_time()
    total = 0
    for number in range(CALIBRATION_ROUNDS):
        total += number
    return max(1.0, (time.process_time() - started) / CALIBRATION_S)


def _timed(case: Case, cast: Cast) -> tuple[Played, float]:
    played = Played()
    with watched_log() as logged, time_limited(), own_garbage():
        try:
            cpu_s = run_virtual(lambda: _play(case, cast, played))
        except StuckError:
            played.findings.append(Finding("the node is stuck"))
            return played, 0.0
        except Exception as error:  # noqa: BLE001  a node that failed as a whole
            what = f"the node failed: {failure_name(error)}"
            played.findings.append(Finding(what, failure_text(error)))
            return played, 0.0
    for said, where in logged.failures:
        played.findings.append(Finding(f"logged: {said}: {where.partition(':')[0]}", where))
    return played, cpu_s


async def _play(case: Case, cast: Cast, played: Played) -> float:
    async with open_world(cast) as world, trio.open_nursery() as nursery:
        before = world.digest()
        target = InProcess(world, nursery)
        started = time.process_time()
        await Player(target, cast).play(case, played)
        cpu_s = time.process_time() - started - played.judging_s
        played.findings += target.findings
        if target.links_left() > 0:
            with trio.move_on_after(target.slack_s):
                while target.links_left() > 0:  # noqa: ASYNC110  tasks tell nobody that they end
                    await trio.sleep(0.1)
        if target.links_left() > 0:
            played.found(["a connection's tasks are left behind"])
        await _check_state(world, before, played)
        nursery.cancel_scope.cancel()
    return cpu_s


async def _check_state(world: World, before: str, played: Played) -> None:
    """What must hold of the accounts, and of what was refused."""
    asked = [each for judge in played.judges for each in judge.asked.values()]
    players = {world.cast.name_of(judge.principal) for judge in played.judges if judge.asked}
    if before != world.digest():
        if players <= STRANGERS:
            played.found(["a stranger changed something"])
        elif all(each.changed_nothing for each in asked):
            played.found(["a refused request changed something"])
    if not any(world.cast.kinds(judge.principal) for judge in played.judges if judge.asked):
        await world.sync()
        played.found(world.broken_accounts())

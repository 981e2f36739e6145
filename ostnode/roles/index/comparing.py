"""The index's calls about agreeing with its buckets: fsck, resync, lost buckets, odd events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from ostnode.env import Clock
from ostnode.errors import BusyError, InvalidArgumentError, UnknownCallError
from ostnode.ids import Principal, PrincipalKind
from ostnode.roles.index.core import checking, resync, summing
from ostnode.roles.index.core.checking import Mending, Run, Step
from ostnode.roles.index.core.findings import dismiss, list_findings, list_rejected
from ostnode.roles.index.core.forgetting import forget_slice
from ostnode.roles.index.core.membership import require_approved
from ostnode.roles.index.core.rows import BucketState
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.repository import Repository
from ostnode.wire import checking as c
from ostnode.wire import messages as m
from ostnode.wire.checking import Part
from ostnode.wire.fields import Message, Request

T = TypeVar("T")

ANSWERED: Final = (
    c.Compare,
    c.StartCheck,
    c.GetCheck,
    c.ListFindings,
    c.ForgetBucket,
    c.ListRejected,
    c.DismissRejected,
)
AWAY_AFTER_S: Final = 15.0
"""Without a word for this long a bucket is said to be away; it is compared when it comes."""
_RETRY_S: Final = 1.0
_OWN: Final = b""
_log = structlog.get_logger(__name__)


@dataclass
class _Work:
    """A comparison with one bucket; forgotten with the process, and begun again then."""

    run: int
    mending: Mending
    state: str = "waiting"
    compared: int = 0
    findings: int = 0


@dataclass
class _Own:
    """How far the check of the index's own sums is; `stage` counts in `summing.STAGES`."""

    run: int
    mending: Mending
    stage: int = 0
    after: bytes = b""
    rows: int = 0
    findings: int = 0
    done: bool = True


class Comparing:
    """Comparisons under way, and whether the index may grant. `run` must be running.

    `incarnation` is the index's. While `restoring`, buckets have yet to acknowledge it.
    """

    def __init__(self, repository: Repository, *, incarnation: int, clock: Clock) -> None:
        self.incarnation = incarnation
        self.restoring = True
        self._transact = repository.transact
        self._clock = clock
        self._works: dict[Principal, _Work] = {}
        self._resyncs: dict[Principal, _Work] = {}
        self._heard: dict[Principal, float] = {}
        self._parked: Counter[Principal] = Counter()
        self._own = _Own(0, Mending.REPORT)
        self._last_run = 0
        self._news = trio.Event()

    async def run(self) -> None:
        """Check the index's own sums whenever that is asked for, until cancelled."""
        while True:
            news = self._news
            while not self._own.done:
                try:
                    await self._sum_up(self._own)
                except BusyError:
                    await trio.sleep(_RETRY_S)
            await news.wait()

    async def answer(self, bucket: Callable[[], Principal], request: Request) -> Message:
        """The calls of `wire.checking`; raises UnknownCallError for every other.

        `bucket` says which bucket asks, or raises NotAuthorizedError.
        """
        match request:
            case c.Compare():
                return await self._compare(bucket(), request)
            case c.StartCheck():
                return await self._start(request)
            case c.GetCheck():
                return await self._progress(request.run)
            case c.ListFindings():
                return await self._transact(partial(list_findings, request=request))
            case c.ForgetBucket(lost, after):
                now = self._now()
                return await self._transact(lambda tables: forget_slice(tables, lost, after, now))
            case c.ListRejected():
                return await self._transact(partial(list_rejected, request=request))
            case c.DismissRejected():
                await self._transact(partial(dismiss, request=request))
                return m.Ok()
            case _:
                raise UnknownCallError("this is an index: it has no such call")

    async def require_whole(self) -> None:
        """Raise BusyError while accounts lack what buckets have not told a restored index yet."""
        if not self.restoring:
            return
        missing = await self._transact(resync.missing)
        if missing:
            first = missing[0].text(PrincipalKind.BUCKET)
            raise BusyError(
                f"the index was restored from a backup, and grants nothing before {len(missing)} "
                f"buckets have agreed with it: {first}"
            )
        self.restoring = False

    async def begin_anew(self, above: int) -> None:
        """A bucket is ahead of this index: it was set back, and takes a new incarnation."""
        now_us = int(self._clock.now() * 1_000_000)

        def take(tables: Tables) -> int:
            return resync.take_incarnation(tables, now_us, above).incarnation

        def note(incarnation: int) -> None:
            self.incarnation, self.restoring = incarnation, True

        await self._transact(take, then=note)
        _log.error("index_was_set_back", incarnation=self.incarnation)

    async def _compare(self, bucket: Principal, request: c.Compare) -> c.Compared:
        self._heard[bucket] = trio.current_time()
        try:
            part = Part(request.part)
        except ValueError:
            raise InvalidArgumentError("no such part of a comparison") from None
        match part:
            case Part.ASK:
                return await self._wanted(bucket, request.wait_ms)
            case Part.BEGIN:
                now = self._now()
                await self._approved(
                    bucket, lambda tables: resync.begin(tables, bucket, request, now)
                )
                self._resyncs[bucket] = work = _Work(self._new_run(), Mending.RESYNC)
                _log.warning("resync_begun", bucket=bucket.text(PrincipalKind.BUCKET))
                self._tell()
                return c.Compared(work.run, resync=True)
            case _:
                return await self._page(bucket, part, request)

    async def _wanted(self, bucket: Principal, wait_ms: int) -> c.Compared:
        deadline = trio.current_time() + wait_ms / 1000
        if await self._approved(bucket, partial(resync.is_begun, principal=bucket)):
            self._resyncs.setdefault(bucket, _Work(self._new_run(), Mending.RESYNC))
        self._parked[bucket] += 1
        try:
            while True:
                work, news = self._resyncs.get(bucket) or self._works.get(bucket), self._news
                if work is not None and work.state != "done":
                    work.state, work.compared, work.findings = "running", 0, 0
                    return c.Compared(work.run, resync=work.mending is Mending.RESYNC)
                if trio.current_time() >= deadline:
                    return c.Compared(0)
                with trio.move_on_at(deadline):
                    await news.wait()
        finally:
            self._parked[bucket] -= 1
            self._heard[bucket] = trio.current_time()

    async def _page(self, bucket: Principal, part: Part, request: c.Compare) -> c.Compared:
        work = next(
            (
                work
                for works in (self._resyncs, self._works)
                if (work := works.get(bucket)) is not None and work.run == request.run
            ),
            None,
        )
        if work is None:
            raise InvalidArgumentError("this comparison is over")
        run = Run(work.run, work.mending, self._now())
        step = await self._approved(bucket, lambda tables: _step(tables, bucket, request, run))
        work.compared += step.compared
        work.findings += step.findings
        if part is Part.END and step.answer.done:
            work.state = "done"
            self._resyncs.pop(bucket, None)
            how = {"rows": work.compared, "findings": work.findings}
            _log.info(
                "compared",
                bucket=bucket.text(PrincipalKind.BUCKET),
                resync=run.mending is Mending.RESYNC,
                **how,
            )
        return step.answer

    async def _start(self, request: c.StartCheck) -> c.CheckProgress:
        if not self._is_done():
            return await self._progress(self._own.run)
        buckets = await self._transact(_to_compare)
        wanted = [request.bucket] if request.bucket else buckets
        if not set(wanted) <= set(buckets):
            raise InvalidArgumentError("the index has no such bucket to compare with")
        run = self._new_run()
        mending = Mending.REPAIR if request.repair else Mending.REPORT
        self._works = {bucket: _Work(run, mending) for bucket in wanted}
        self._own = _Own(run, mending, done=request.bucket is not None)
        self._tell()
        return await self._progress(run)

    def _tell(self) -> None:
        """Let those who wait for work look again."""
        news, self._news = self._news, trio.Event()
        news.set()

    async def _progress(self, run: int) -> c.CheckProgress:
        missing = await self._transact(resync.missing)
        if run not in {0, self._own.run}:
            raise InvalidArgumentError("that check is not known any more: start another")
        return c.CheckProgress(
            run=self._own.run,
            done=self._is_done(),
            repair=self._own.mending is Mending.REPAIR,
            rows=self._own.rows,
            findings=self._own.findings,
            buckets=tuple(
                c.BucketCheck(bucket, self._state(bucket, work), work.compared, work.findings)
                for bucket, work in [*self._works.items()][: c.BUCKETS_TOLD_MAX]
            ),
            missing=tuple(missing[: c.BUCKETS_TOLD_MAX]),
        )

    def _state(self, bucket: Principal, work: _Work) -> str:
        silent_s = trio.current_time() - self._heard.get(bucket, -AWAY_AFTER_S)
        gone = not self._parked[bucket] and silent_s >= AWAY_AFTER_S
        return "away" if gone and work.state != "done" else work.state

    def _is_done(self) -> bool:
        states = {self._state(bucket, work) for bucket, work in self._works.items()}
        return self._own.done and states <= {"done", "away"}

    async def _sum_up(self, own: _Own) -> None:
        """One slice of the index's own rows."""
        run = Run(own.run, own.mending, self._now())
        if own.stage == len(summing.STAGES):
            clear = partial(checking.clear_older, bucket=_OWN, run=own.run)
            own.done = await self._transact(clear)
            return
        check, after = summing.STAGES[own.stage], own.after
        done = await self._transact(lambda tables: check(tables, after, run))
        own.rows += done.rows
        own.findings += done.findings
        own.after = done.after
        if not done.after:
            own.stage += 1

    async def _approved(self, bucket: Principal, decide: Callable[[Tables], T]) -> T:
        def decided(tables: Tables) -> T:
            require_approved(tables, bucket)
            return decide(tables)

        return await self._transact(decided)

    def _new_run(self) -> int:
        self._last_run = max(self._last_run + 1, int(self._clock.now() * 1_000_000))
        return self._last_run

    def _now(self) -> int:
        return int(self._clock.now())


def _step(tables: Tables, bucket: Principal, page: c.Compare, run: Run) -> Step:
    row = resync.require_bucket(tables, bucket)
    match Part(page.part):
        case Part.BURNED:
            resync.unite_burned(tables, page.names, run.now)
        case Part.DELETED:
            resync.unite_deleted(tables, page.names)
        case Part.HOLDINGS:
            return checking.compare_holdings(tables, row, page, run)
        case Part.GRANTS:
            return checking.compare_grants(tables, row, page, run)
        case _:
            done = checking.clear_older(tables, bucket, run.number)
            if done and run.mending is Mending.RESYNC:
                done = resync.end_slice(tables, bucket)
            return Step(c.Compared(run.number, done=done))
    return Step(c.Compared(run.number))


def _to_compare(tables: Tables) -> list[Principal]:
    return [
        bucket.principal
        for bucket in tables.buckets.where()
        if bucket.incarnation and bucket.state is not BucketState.REVOKED
    ]

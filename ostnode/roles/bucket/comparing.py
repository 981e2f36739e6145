"""The bucket's side of a comparison: what it holds, a page at a time, each as of one moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import islice
from typing import Final

import structlog
import trio

from ostnode.errors import BusyError, InvalidArgumentError
from ostnode.ids import GrantId
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.asking import IndexPort, ask
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.views import View
from ostnode.wire import checking as c
from ostnode.wire.checking import Part

ASK_WAIT_MS: Final = 30_000
_PAUSE_S: Final = 1.0
_LOOKED_AT_MAX: Final = 2000
"""Registrations looked at for deleted ones before others get their turn."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def begin(view: View) -> c.Compare:
    """The request that starts a full resync."""
    return _compare(view, 0, Part.BEGIN, view.number(t.OUTBOX_ACKED))


def holdings(view: View, after: bytes) -> tuple[tuple[c.Holding, ...], bytes]:
    """A page of what is held behind a place, and the place it goes to; empty: to the end."""
    rows = list(islice(view.held(after), c.HOLDINGS_MAX))
    page = tuple(c.Holding(*row) for row in rows)
    full = len(page) == c.HOLDINGS_MAX
    return page, page[-1].uid + page[-1].blob_id if full else b""


def deleted_uids(view: View, after: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """Deleted uids among the next registrations, and the place behind those; empty: the end."""
    rows = list(islice(view.users(after), _LOOKED_AT_MAX))
    names = [uid for uid, row in rows if row.deleted][: c.NAMES_MAX]
    if len(names) == c.NAMES_MAX:
        return tuple(names), names[-1]
    return tuple(names), rows[-1][0] if len(rows) == _LOOKED_AT_MAX else b""


def burned_accessors(view: View, after: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """The next accessors that are gone for ever, and the place behind them; empty: the end."""
    names = tuple(islice(view.burned_accessors(after), c.NAMES_MAX))
    return names, names[-1] if len(names) == c.NAMES_MAX else b""


def _compare(view: View, run: int, part: Part, position: int) -> c.Compare:
    return c.Compare(
        run=run,
        part=part,
        incarnation=view.number(t.INCARNATION),
        index_incarnation=view.feed_cursor()[0],
        position=position,
    )


Names = Callable[[View, bytes], tuple[tuple[bytes, ...], bytes]]
Page = Callable[[View, int], c.Compare]
Send = Callable[[IndexPort, Page], Awaitable[c.Compared]]
"""Sends the page of a moment when every event up to that moment is acknowledged, and none behind
it is on its way; the page is made of the durable rows and the last event's number.
"""


class Comparer:
    """Compares with the index whenever that wants it."""

    def __init__(self, desk: Desk, send: Send) -> None:
        self._desk, self._send = desk, send

    async def run(self, port: IndexPort) -> None:
        """Wait for what is wanted, and do it, until the link fails."""
        told = ""
        while True:
            try:
                await self.compare(port, ASK_WAIT_MS)
                told = ""
            except (BusyError, InvalidArgumentError) as error:
                if error.message != told:
                    log.warning("comparison broken off", reason=error.message)
                told = error.message
                await trio.sleep(_PAUSE_S)

    async def compare(self, port: IndexPort, wait_ms: int) -> bool:
        """Compare once, if that is wanted within the time; whether it was."""
        request = _compare(self._desk.durable, 0, Part.ASK, 0)
        wanted = await ask(port, replace(request, wait_ms=wait_ms), c.Compared)
        if not wanted.run:
            return False
        if wanted.resync:
            await self._tell(port, wanted.run, Part.BURNED, burned_accessors)
            await self._tell(port, wanted.run, Part.DELETED, deleted_uids)
        await self._holdings(port, wanted.run)
        await self._grants(port, wanted.run)
        done = False
        while not done:
            end = _compare(self._desk.durable, wanted.run, Part.END, 0)
            done = (await ask(port, end, c.Compared)).done
        return True

    async def _tell(self, port: IndexPort, run: int, part: Part, names: Names) -> None:
        """What is deleted stays so: no moment has to be the same."""
        after, more = b"", True
        while more:
            view = self._desk.durable
            page, after = names(view, after)
            if page:
                await ask(port, replace(_compare(view, run, part, 0), names=page), c.Compared)
            more = bool(after)

    async def _holdings(self, port: IndexPort, run: int) -> None:
        after = b""

        def page(view: View, position: int) -> c.Compare:
            rows, through = holdings(view, after)
            request = _compare(view, run, Part.HOLDINGS, position)
            return replace(request, after=after, through=through, holdings=rows)

        while not (answer := await self._send(port, page)).done:
            after = answer.after

    async def _grants(self, port: IndexPort, run: int) -> None:
        """Of the grants that the index has open it hears which are closed, a page later."""
        answer = c.Compared(run)

        def page(view: View, position: int) -> c.Compare:
            grants = [GrantId(name) for name in answer.names]
            closed = [g for g in grants if isinstance(view.grant(g), t.ClosedGrant)]
            request = _compare(view, run, Part.GRANTS, position)
            return replace(request, after=answer.after, names=tuple(closed))

        while not answer.done:
            answer = await self._send(port, page)

"""Where decisions become durable: one after another on the staged state, told only once synced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio

from ostnode.errors import BusyError, OstError, ShuttingDownError
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.records import Kind
from ostnode.roles.bucket.views import View
from ostnode.store.errors import StoreFailedError, StoreFullError
from ostnode.store.store import Staged, Store

T = TypeVar("T")

METADATA_BYTES: Final = 4096
"""Room asked for when a decision writes no chunk: the common few records."""


class News:
    """Something that one task waits for and any may tell; telling twice is telling once."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def tell(self) -> None:
        """Wake the waiter, or its next wait."""
        self._event.set()

    async def wait(self, at_most_s: float) -> None:
        """Return when told since the last wait, or after that many seconds."""
        with trio.move_on_after(at_most_s):
            await self._event.wait()
        self._event = trio.Event()


class Desk:
    """Decides on the store's staged state and answers when the decision is durable.

    A decision is a synchronous function of a draft. What it returns or raises may rest on
    records that are still being synced, its own or earlier ones, so even a refusal waits for
    them: nobody is told what a crash could undo.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.outbox_news = News()
        self.sweep_news = News()
        self.losing: dict[int, bool] = {}
        """Uploads that are being hashed: whether one has lost a chunk since it was entered here."""

    @property
    def state(self) -> View:
        """What is decided on: staged effects included. Tell nobody before `synced`."""
        return View(self._store.state)

    @property
    def durable(self) -> View:
        """What may be told at once."""
        return View(self._store.durable)

    async def synced(self) -> None:
        """Wait until all that has been decided so far is durable."""
        async with _translated():
            await self._store.synced()

    async def decide(
        self, decision: Callable[[Draft], T | OstError], nbytes: int = METADATA_BYTES
    ) -> T:
        """The decision's answer.

        `nbytes` is about how much it writes. An OstError that the decision returns is raised
        once its records are durable; one that it raises leaves nothing behind. Raises BusyError
        when the disk is full and nothing was written, ShuttingDownError when the outcome is
        unknown because the store has failed.
        """
        answer: T | OstError
        staged = None
        async with _translated():
            async with self._store.admit(nbytes):
                draft = Draft(self._store.state, self._store.next_seq)
                try:
                    answer = decision(draft)
                except OstError as error:
                    answer = error
                else:
                    staged = self._stage(draft)
            await (self._store.synced() if staged is None else staged.wait())
        if isinstance(answer, OstError):
            raise answer
        return answer

    def _stage(self, draft: Draft) -> Staged | None:
        if not draft.records:
            return None
        staged = self._store.stage(draft.records)
        kinds = {record.kind for record in draft.records}
        if Kind.OUTBOX in kinds:
            self.outbox_news.tell()
        if kinds & _SWEEPABLE:
            self.sweep_news.tell()
        if Kind.CHUNKS_DROPPED in kinds:
            self._note_losses(draft)
        return staged

    def _note_losses(self, draft: Draft) -> None:
        for record in draft.records:
            if record.kind == Kind.CHUNKS_DROPPED and record.number in self.losing:
                self.losing[record.number] = True


_SWEEPABLE: Final = frozenset({
    Kind.ACCESSOR_BURNED,
    Kind.USER,
    Kind.GRANT_CLOSED,
    Kind.TOMBSTONE,
    Kind.FLOOR,
})
"""Records that may leave something to sweep."""


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """A failed store ends the node; callers hear that it stops. A full disk is waited out: the
    room that an upload was promised is there again when something is deleted.
    """
    try:
        yield
    except StoreFullError as error:
        raise BusyError("the bucket's disk is full; try again later") from error
    except StoreFailedError as error:
        raise ShuttingDownError("the store has failed; the outcome is unknown") from error

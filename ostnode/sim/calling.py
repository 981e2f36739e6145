"""How people's calls travel: over links that break, with answers that get lost, and tried again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, TypeVar

import trio

from ostnode.errors import InternalError, OstError
from ostnode.identity.keys import KeyPair
from ostnode.ids import FixedBytes, GrantId
from ostnode.net.link import Link
from ostnode.net.transport import LinkClosedError
from ostnode.sim.world import World
from ostnode.wire.calls import Reply
from ostnode.wire.fields import Message, Request

CALL_S: Final = 8.0
"""How long people wait for one answer."""
TRIES: Final = 4
_UNKNOWN: Final = frozenset({"shutting_down", "internal"})
"""Refusals that do not say whether anything was done."""
_SHOWN: Final = frozenset({"missing", "seq", "size", "offset", "length", "chunk_index", "ref_id"})
M = TypeVar("M", bound=Message)


class ViolationError(Exception):
    """The cluster has broken its word."""


class NoAnswerError(Exception):
    """No try was answered: what was asked for may have happened, may still happen, or never."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer or a refusal; `blurred` when an earlier try had no answer.

    A refusal may be a consequence of what that earlier try has done.
    """

    reply: Reply | None
    refusal: OstError | None
    blurred: bool

    @property
    def code(self) -> str:
        """The refusal's, or empty."""
        return "" if self.refusal is None else self.refusal.code


@dataclass(frozen=True, slots=True)
class Lane:
    """Who calls, on which of their connections."""

    key: KeyPair
    name: str


class Lines:
    """Every link of everybody; one that has ended is dialled anew with the next call."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self._world, self._nursery = world, nursery
        self._rng = world.rng("patience")
        self._links: dict[tuple[bytes, str, str], Link] = {}

    async def ask(
        self, lane: Lane, node: str, request: Request, body: bytes = b"", tries: int = TRIES
    ) -> Heard:
        """Call until there is an answer that counts; raises NoAnswerError after the last try."""
        blurred = False
        heard: Heard | None = None
        for number in range(tries):
            if number:
                await trio.sleep(self._rng.uniform(0.2, 2.0 * number))
            heard = await self._try(lane, node, request, body, blurred=blurred)
            blurred = heard is None or heard.blurred
            if heard is not None and (heard.refusal is None or not heard.refusal.retryable):
                return heard
        if heard is None or blurred:
            raise NoAnswerError
        return heard

    async def _try(
        self, lane: Lane, node: str, request: Request, body: bytes, *, blurred: bool
    ) -> Heard | None:
        """One try; None when nobody knows what came of it."""
        what = f"{lane.name} {node} {told(request)}"
        with trio.move_on_after(CALL_S):
            try:
                link = await self._link(lane, node)
                reply = await link.call(request, body)
            except LinkClosedError:
                self._world.trace(f"{what}: no answer")
                return None
            except OstError as refusal:
                self._world.trace(f"{what}: {refusal.code}")
                self._judge(what, refusal)
                return Heard(None, refusal, blurred or refusal.code in _UNKNOWN)
            self._world.trace(f"{what}: {told(reply.message)}")
            return Heard(reply, None, blurred)
        self._world.trace(f"{what}: too late")
        return None

    def _judge(self, what: str, refusal: OstError) -> None:
        if isinstance(refusal, InternalError):
            raise ViolationError(f"{what}: an internal error")
        if refusal.code in {"data_corrupt", "unauthenticated"}:
            raise ViolationError(f"{what}: {refusal.code}: {refusal.message}")

    async def _link(self, lane: Lane, node: str) -> Link:
        name = (lane.key.principal, lane.name, node)
        link = self._links.get(name)
        if link is None:
            link = self._links[name] = await self._nursery.start(self._hold, lane, node, name)
        return link

    async def _hold(
        self,
        lane: Lane,
        node: str,
        name: tuple[bytes, str, str],
        *,
        task_status: trio.TaskStatus[Link],
    ) -> None:
        held: Link | None = None
        try:
            async with self._world.link(lane.key, node) as held:
                task_status.started(held)
                await held.wait_closed()
        except (LinkClosedError, OstError):
            if held is None:
                raise
        finally:
            if self._links.get(name) is held:
                self._links.pop(name, None)


def told(message: Message) -> str:
    """A message in a few words: its kind, the beginnings of names, and some numbers."""
    words = [type(message).__name__]
    for field in fields(message):  # type: ignore[arg-type]  # every message is a dataclass
        value = getattr(message, field.name)
        if isinstance(value, GrantId):
            words.append(value[-8:].hex())
        elif isinstance(value, FixedBytes):
            words.append(value[:4].hex())
        elif field.name in _SHOWN:
            words.append(value.hex() if isinstance(value, bytes) else str(value))
    return " ".join(words)

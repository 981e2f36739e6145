"""Playing one case against one target, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from ostnode.fuzz.cases import (
    Case,
    Deaf,
    Dial,
    Finish,
    Greet,
    LinkStep,
    Listen,
    Pause,
    Prove,
    Reset,
    Send,
    Step,
)
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.judge import Channel, Judge
from ostnode.fuzz.links import FuzzLink
from ostnode.fuzz.requests import Asking
from ostnode.net.transport import LinkClosedError
from ostnode.wire.calls import Kind

WAIT_STEP_S: Final = 0.25
CLOSE_WITHIN_S: Final = 5.0
_EPSILON_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection to the target: `binding` is what proofs on it sign."""

    stream: trio.abc.Stream
    binding: bytes = b""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: `what` names it for all cases that show it, `detail` is this one's."""

    what: str
    detail: str = ""


@dataclass(slots=True)
class Played:
    """What came of a case."""

    findings: list[Finding] = field(default_factory=list)
    features: set[str] = field(default_factory=set)
    judges: list[Judge] = field(default_factory=list)
    judging_s: float = 0.0
    """Processor time that judging took."""

    def found(self, problems: Sequence[str]) -> None:
        """Put problems on record, each kind once."""
        known = {finding.what for finding in self.findings}
        self.findings += [Finding(what) for what in dict.fromkeys(problems) if what not in known]


class Target(Protocol):
    """A node under test. Times are of Trio's clock."""

    slack_s: float
    """How long whatever is to come at once may take."""
    patience_s: float
    """How long to wait for answers and stalls, at the end of a case."""

    pause_s_max: float
    """Pauses are cut to this."""
    case_s_max: float
    """How long the steps of a case may take."""

    async def dial(self, to: str) -> Dialled:
        """A new connection; raises LinkClosedError."""
        ...

    def role(self, to: str) -> Kind | None:
        """What is at the other end of such a connection, if that is known."""
        ...

    def watch(self, played: Played) -> None:
        """Called after every step: look at what the node holds."""
        ...

    async def probe(self, played: Played) -> None:
        """See whether honest clients are still answered, while the hostile links are open."""
        ...


class Player:
    """Plays the steps of cases against a target."""

    def __init__(self, target: Target, cast: Cast) -> None:
        self._target, self._cast = target, cast

    async def play(self, case: Case, played: Played) -> None:
        """Play the steps, wait for what is owed, end every link, and judge."""
        links: dict[int, FuzzLink] = {}
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(self._target.case_s_max):
                for step in case.steps:
                    await self._do(step, links, nursery, played)
                    self._target.watch(played)
            await self._target.probe(played)
            await self._wind_up(list(links.values()))
            for link in links.values():
                played.judging_s += link.judging_s
                await link.close()
            nursery.cancel_scope.cancel()
        for judge in played.judges:
            judge.overdue(trio.current_time())
            judge.overrun()
            played.found(judge.problems)
            played.features |= judge.features
        if not any(self._has_power(judge.principal) for judge in played.judges if judge.asked):
            asked = [each for judge in played.judges for each in judge.asked.values()]
            leaks = [each for each in asked if each.foreign and each.outcome == "reply"]
            played.found([f"the node answered {each.name} though {each.foreign}" for each in leaks])

    def _has_power(self, principal: bytes) -> bool:
        return bool(self._cast.kinds(principal)) or self._cast.may_anything(principal)

    async def _do(
        self, step: Step, links: dict[int, FuzzLink], nursery: trio.Nursery, played: Played
    ) -> None:
        if isinstance(step, Pause):
            await trio.sleep(min(step.seconds, self._target.pause_s_max))
            return
        if isinstance(step, Dial):
            await self._dial(step, links, nursery, played)
            return
        link = links.get(step.link)
        if link is not None:
            await self._do_on(link, step, links)

    async def _do_on(self, link: FuzzLink, step: LinkStep, links: dict[int, FuzzLink]) -> None:
        match step:
            case Greet():
                await link.greet(step)
            case Prove():
                await link.prove(step, links.get(step.over))
            case Send():
                await link.send(step)
            case Deaf():
                link.go_deaf()
            case Listen():
                link.listen()
            case Finish():
                await link.finish()
            case Reset():
                await link.reset()

    async def _dial(
        self, step: Dial, links: dict[int, FuzzLink], nursery: trio.Nursery, played: Played
    ) -> None:
        if step.link in links:
            return
        try:
            dialled = await self._target.dial(step.to)
        except LinkClosedError as error:
            played.findings.append(Finding("the node cannot be reached", str(error)))
            return
        judge = Judge(channel_to(self._target, dialled, step.to, self._cast))
        played.judges.append(judge)
        links[step.link] = FuzzLink(
            dialled.stream, judge, self._cast, gap_s_max=self._target.pause_s_max
        )
        nursery.start_soon(links[step.link].read)

    async def _wind_up(self, links: Sequence[FuzzLink]) -> None:
        """Wait for what is owed at once, then end our sides and see the links end."""
        for link in links:
            link.listen()
        await self._until_settled(links, trio.current_time() + self._target.patience_s)
        for link in links:
            link.judge.overdue(trio.current_time())
            await link.finish()
        deadline = trio.current_time() + self._target.slack_s + CLOSE_WITHIN_S
        await self._until_settled(links, deadline)

    async def _until_settled(self, links: Sequence[FuzzLink], deadline: float) -> None:
        while True:
            now = trio.current_time()
            dues = [
                due
                for link in links
                for due in link.judge.dues(patient=False).values()
                if due + _EPSILON_S > now
            ]
            if not dues or now >= deadline:
                return
            with trio.move_on_at(min(deadline, min(dues) + _EPSILON_S, now + WAIT_STEP_S)):
                await _any_changed(links)


def channel_to(target: Target, dialled: Dialled, to: str, cast: Cast) -> Channel:
    """What the judge of a new link is told."""
    return Channel(
        role=target.role(to),
        asking=Asking(cast),
        binding=dialled.binding,
        slack_s=target.slack_s,
        dialled_at=trio.current_time(),
    )


async def _any_changed(links: Sequence[FuzzLink]) -> None:
    async with trio.open_nursery() as nursery:

        async def watch(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for link in links:
            nursery.start_soon(watch, link.changed)

"""A live node as the target: over TCP, with or without TLS, as any stranger would come."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio
from typing_extensions import override

from ostnode.codec import encode
from ostnode.errors import OstError
from ostnode.fuzz import spec
from ostnode.fuzz.cases import Case, Greet, Prove, Send
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.judge import Judge
from ostnode.fuzz.links import FuzzLink, frame
from ostnode.fuzz.playing import Dialled, Finding, Played, Player, Target, channel_to
from ostnode.net.transport import LinkClosedError, Network, secured
from ostnode.wire.calls import Kind

DIAL_S: Final = 5.0
HONEST_S: Final = 10.0
PATIENT_PAUSE_S: Final = 75.0
"""Long enough to see a stalled link end."""
MEMORY_GROWTH_MAX: Final = 256 << 20
DESCRIPTORS_GROWTH_MAX: Final = 300
_HONEST: Final = "bob"
_PAGE_BYTES: Final = 4096


class Process:
    """The node's process, looked at through /proc."""

    def __init__(self, pid: int) -> None:
        self._root = Path(f"/proc/{pid}")
        self._memory, self._descriptors = self._figures()

    def problems(self) -> list[str]:
        """What has grown too much, or that it is gone."""
        try:
            memory, descriptors = self._figures()
        except OSError:
            return ["the node's process is gone"]
        problems = []
        if memory - self._memory > MEMORY_GROWTH_MAX:
            problems.append("the node's memory grows without bound")
        if descriptors - self._descriptors > DESCRIPTORS_GROWTH_MAX:
            problems.append("the node's descriptors grow without bound")
        return problems

    def _figures(self) -> tuple[int, int]:
        """Resident bytes and open descriptors; raises OSError."""
        pages = int((self._root / "statm").read_text().split()[1])
        return pages * _PAGE_BYTES, sum(1 for _ in (self._root / "fd").iterdir())


class LiveTarget(Target):
    """One address. A case's words for index and bucket both mean it."""

    slack_s = 5.0

    def __init__(
        self,
        network: Network,
        address: str,
        cast: Cast,
        *,
        patient: bool = False,
        process: Process | None = None,
    ) -> None:
        self._network, self._address = network, address
        self._cast, self._process = cast, process
        self.pause_s_max = PATIENT_PAUSE_S if patient else 0.2
        self.patience_s = PATIENT_PAUSE_S if patient else 2.0
        self.case_s_max = 3 * PATIENT_PAUSE_S if patient else 10.0

    @override
    async def dial(self, to: str) -> Dialled:
        stream: trio.abc.Stream | None = None
        try:
            with trio.fail_after(DIAL_S):
                stream = await self._network.connect(self._address)
                return Dialled(stream, await secured(stream))
        except (trio.TooSlowError, OstError, LinkClosedError) as error:
            if stream is not None:
                await trio.aclose_forcefully(stream)
            raise LinkClosedError(str(error) or "it does not answer in time") from error

    @override
    def role(self, to: str) -> Kind | None:
        return None

    @override
    def watch(self, played: Played) -> None:
        if self._process is not None:
            played.found(self._process.problems())

    @override
    async def probe(self, played: Played) -> None:
        """A stranger with manners proves its key and pings."""
        try:
            dialled = await self.dial("")
        except LinkClosedError as error:
            played.findings.append(Finding("the node cannot be reached", str(error)))
            return
        judge = Judge(channel_to(self, dialled, "", self._cast))
        link = FuzzLink(dialled.stream, judge, self._cast, gap_s_max=0)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.read)
                with trio.move_on_after(HONEST_S) as scope:
                    await link.greet(Greet(0, _HONEST))
                    await link.prove(Prove(0, _HONEST), None)
                    await link.send(Send(0, frame(encode({"t": spec.PING, "token": 1}))))
                    while judge.dues(patient=False):
                        await link.changed.wait()
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(dialled.stream)
        if scope.cancelled_caught or judge.problems or judge.ended_at >= 0:
            detail = "; ".join(judge.problems) or "no answer in time, or the link was closed"
            played.findings.append(Finding("an honest client is not answered", detail))


def play_live(case: Case, target: LiveTarget, cast: Cast) -> Played:
    """Play a case against the live node, in real time."""
    played = Played()
    trio.run(Player(target, cast).play, case, played)
    return played

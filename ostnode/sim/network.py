"""The network between simulated machines: latency, partitions, broken and half-open connections."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

import trio
from typing_extensions import override

from ostnode.net.transport import Handler, LinkClosedError, Network, guarded
from ostnode.sim.wires import Mark, Pipe, SimStream

ANY: Final = "*"
"""Every machine, where one is named."""
_BACKLOG: Final = 128
_CONNECT_S: Final = 20.0
"""How long a dialler waits for a machine that does not answer at all."""


@dataclass(frozen=True, slots=True)
class Latency:
    """One way, in seconds: each connection has its own between `low_s` and `high_s`, and each
    write up to `jitter_s` more.
    """

    low_s: float = 0.0005
    high_s: float = 0.02
    jitter_s: float = 0.005


class _Connection:
    """Who has dialled whom, and both ends' streams."""

    def __init__(self, dialler: str, accepter: str, there: Pipe, back: Pipe) -> None:
        self.dialler, self.accepter = dialler, accepter
        there.back, back.back = back, there
        self.pipes = {(dialler, accepter): there, (accepter, dialler): back}
        self.streams = {dialler: SimStream(back, there), accepter: SimStream(there, back)}

    def of(self, a: str, b: str) -> bool:
        """Whether it runs between them; either may be ANY."""
        return any(_meets(end, a) and _meets(other, b) for end, other in self.pipes)


class SimNetwork:
    """Machines by name. Each process on one has a `port`, which ends with it."""

    def __init__(self, rng: Random, trace: Callable[[str], None]) -> None:
        self.latency = Latency()
        self._rng, self._trace = rng, trace
        self._blocked: dict[tuple[str, str], None] = {}
        self._refusing: dict[str, None] = {}
        self._dark: dict[str, None] = {}
        self._places: dict[str, str] = {}
        self._served: dict[str, tuple[Port, trio.MemorySendChannel[SimStream]]] = {}
        self._open: dict[int, _Connection] = {}
        self._dialled = 0

    def place(self, address: str, name: str) -> None:
        """Say on which machine an address is."""
        self._places[address] = name

    def port(self, name: str) -> Port:
        """The network as a new process on that machine sees it."""
        return Port(self, name)

    # --- faults ---------------------------------------------------------------------------------

    def partition(self, a: str, b: str = ANY, *, one_way: bool = False) -> None:
        """Let nothing through from `a` to `b`, nor back unless `one_way`.

        What is on its way is sent again after healing, as TCP does; who stays too long without an
        answer gives the connection up.
        """
        self._trace(f"partition {a}>{b}{'' if one_way else ' both ways'}")
        ways = [(a, b)] if one_way else [(a, b), (b, a)]
        self._blocked.update(dict.fromkeys(ways))
        for connection in self._open.values():
            for (src, dst), pipe in connection.pipes.items():
                if self._is_blocked(src, dst):
                    pipe.hold()

    def heal(self, a: str | None = None, b: str = ANY) -> None:
        """End the partition between `a` and `b`; without names all of them, and all refusing."""
        self._trace(f"heal {a or ANY} {b}")
        if a is None:
            self._blocked.clear()
            self._refusing.clear()
        else:
            self._blocked.pop((a, b), None)
            self._blocked.pop((b, a), None)
        for connection in self._open.values():
            for pipe in connection.pipes.values():
                pipe.release()

    def refuse(self, name: str, *, refusing: bool = True) -> None:
        """Have a machine refuse every new connection, or take them again."""
        self._trace(f"refuse {name} {refusing}")
        if refusing:
            self._refusing[name] = None
        else:
            self._refusing.pop(name, None)

    def cut(self, a: str, b: str = ANY) -> None:
        """Break every connection between them."""
        self._trace(f"cut {a} {b}")
        for connection in self._between(a, b):
            for pipe in connection.pipes.values():
                pipe.reset()

    def cut_in_frame(self, a: str, b: str = ANY) -> None:
        """Break every connection between them within the next bytes that go from `a` to `b`."""
        self._trace(f"cut in frame {a}>{b}")
        for connection in self._between(a, b):
            for (src, dst), pipe in connection.pipes.items():
                pipe.cut_next = pipe.cut_next or (_meets(src, a) and _meets(dst, b))

    def end(self, port: Port, *, silent: bool) -> None:
        """The process of this port is gone. Its system tells those who were connected to it,
        unless that is gone as well (`silent`), until the machine is back.
        """
        port.over = True
        for address, (owner, channel) in list(self._served.items()):
            if owner is port:
                del self._served[address]
                channel.close()
        if silent:
            self._dark[port.name] = None
        for connection in self._between(port.name, ANY):
            for (src, _), pipe in connection.pipes.items():
                if silent:
                    connection.streams[port.name].vanish()
                elif src == port.name:
                    pipe.mark(self._rng.choice((Mark.END, Mark.RESET)))
                else:
                    pipe.forget()

    def back(self, name: str) -> None:
        """The machine is on again: it knows nothing of the connections it had."""
        if name in self._dark:
            del self._dark[name]
            for connection in self._between(name, ANY):
                for (_, dst), pipe in connection.pipes.items():
                    if dst == name:
                        pipe.forget()

    def _between(self, a: str, b: str) -> list[_Connection]:
        return [connection for connection in self._open.values() if connection.of(a, b)]

    def _is_blocked(self, src: str, dst: str) -> bool:
        return any(_meets(src, a) and _meets(dst, b) for a, b in self._blocked)

    # --- what ports use -------------------------------------------------------------------------

    async def dial(self, port: Port, address: str) -> SimStream:
        """See `Network.connect`."""
        src, dst = port.name, self._places.get(address, address)
        delay_s = self._rng.uniform(self.latency.low_s, self.latency.high_s)
        await trio.sleep(delay_s)
        if dst in self._dark or self._is_blocked(src, dst) or self._is_blocked(dst, src):
            await trio.sleep(_CONNECT_S)
            raise LinkClosedError(f"cannot connect to {address}: it does not answer")
        served = self._served.get(address)
        if served is None or dst in self._refusing or port.over:
            await trio.sleep(delay_s)
            raise LinkClosedError(f"cannot connect to {address}: refused")
        self._dialled += 1
        connection = self._connect(src, dst)
        try:
            served[1].send_nowait(connection.streams[dst])
        except trio.WouldBlock:
            raise LinkClosedError(f"cannot connect to {address}: too many are waiting") from None
        self._open[self._dialled] = connection
        await trio.sleep(delay_s)
        return connection.streams[src]

    def _connect(self, src: str, dst: str) -> _Connection:
        base_s = self._rng.uniform(self.latency.low_s, self.latency.high_s)
        pipes = [
            Pipe(
                f"{a}>{b} #{self._dialled}",
                self._rng,
                partial(self._delay_s, a, b, base_s),
                self._trace,
            )
            for a, b in ((src, dst), (dst, src))
        ]
        return _Connection(src, dst, *pipes)

    def _delay_s(self, src: str, dst: str, base_s: float) -> float | None:
        if self._blocked and self._is_blocked(src, dst):
            return None
        return base_s + self._rng.random() * self.latency.jitter_s

    async def serve(
        self, port: Port, address: str, handler: Handler, task_status: trio.TaskStatus[str]
    ) -> None:
        """See `Network.serve`."""
        if address in self._served:
            raise OSError(errno.EADDRINUSE, f"{address} is served already")
        accept, accepted = trio.open_memory_channel[SimStream](_BACKLOG)
        self._served[address] = port, accept
        try:
            async with trio.open_nursery() as nursery:
                task_status.started(address)
                async for stream in accepted:
                    nursery.start_soon(guarded, handler, stream)
        finally:
            if self._served.get(address) == (port, accept):
                del self._served[address]
            accept.close()
            accepted.close()


class Port(Network):
    """One process's way to the network."""

    def __init__(self, network: SimNetwork, name: str) -> None:
        self.network, self.name = network, name
        self.over = False

    @override
    async def connect(self, address: str) -> trio.abc.Stream:
        return await self.network.dial(self, address)

    @override
    async def serve(
        self,
        address: str,
        handler: Handler,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        await self.network.serve(self, address, handler, task_status)


def _meets(name: str, pattern: str) -> bool:
    return pattern in {name, ANY}

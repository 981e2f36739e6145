"""A whole cluster in virtual time: index and buckets, as in production down to the seams."""

from __future__ import annotations

import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Generic, TypeVar

import structlog
import trio
from structlog.typing import EventDict, WrappedLogger

from ostnode.config import Config, parse_config
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import ClusterId, Principal, PrincipalKind
from ostnode.net.link import Link, open_link
from ostnode.roles.index.core.tables import Tables
from ostnode.sim.faults import happen, up_again
from ostnode.sim.machine import SimClock
from ostnode.sim.network import SimNetwork
from ostnode.sim.nodes import BucketNode, IndexNode, SimNode
from ostnode.sim.plan import Plan
from ostnode.sim.tracing import Trace
from ostnode.store.keyspace import Reader
from ostnode.virtual import SeededRng, run_virtual
from ostnode.wire.calls import Caller
from ostnode.wire.fields import Message, Request

T = TypeVar("T")

CLUSTER: Final = ClusterId(b"simulated-world!")
_FIRST_PORT: Final = 7000
_SEGMENT_BYTES: Final = 64 << 10
_BATCH_BYTES: Final = 16 << 10
"""Far below what a config may say: simulated disks copy whole segments."""


class World:
    """A running cluster, an app and an operator; made by `open_world`."""

    def __init__(self, plan: Plan, trace: Trace, nursery: trio.Nursery) -> None:
        self.plan, self.seed, self.trace, self.nursery = plan, plan.seed, trace, nursery
        self.cluster_id = CLUSTER
        self.clock = SimClock()
        """The true time."""
        self.app = KeyPair.from_seed(self.rng("key of the app").randbytes(32))
        self.operator = KeyPair.from_seed(self.rng("key of the operator").randbytes(32))
        self.network = SimNetwork(self.rng("network"), trace)
        self.index = IndexNode(self, "index", f"127.0.0.1:{_FIRST_PORT}")
        self.buckets = [
            BucketNode(self, f"bucket{n}", f"127.0.0.1:{_FIRST_PORT + 1 + n}", n)
            for n in range(plan.buckets)
        ]
        self.nodes: Mapping[str, SimNode] = {
            node.name: node for node in (self.index, *self.buckets)
        }
        self.config = self._config()
        self.on_crash: list[Callable[[str], None]] = []
        """Called with the name of a node that was killed or failed, before it starts again."""
        self.on_answer: list[Callable[[str, Caller, Request, Message], None]] = []
        """Called with the name of a node that is about to answer a request, and the answer."""
        self.errors: list[str] = []
        """What nodes logged as an error: in a simulation nobody but us can be at fault."""
        self._links = 0
        self._faults = trio.CancelScope()

    def rng(self, label: str) -> Random:
        """Randomness of its own for whatever bears this name."""
        return Random(f"{self.seed} {label}")  # noqa: S311  repeatable on purpose

    def clock_of(self, name: str) -> SimClock:
        """A node's wall clock."""
        return self.nodes[name].clock

    def principal_of(self, name: str) -> Principal:
        """Who a node is."""
        return self.nodes[name].key.principal

    def name_of(self, principal: Principal) -> str:
        """Which node this is."""
        return next(name for name in self.nodes if self.principal_of(name) == principal)

    @asynccontextmanager
    async def link(self, key: KeyPair, name: str) -> AsyncIterator[Link]:
        """A peer link of a client with this key to a node; see `ostnode.net.link.open_link`.

        Each key has a machine of its own, `client-` and the first six digits of its principal.
        """
        self._links += 1
        node = self.nodes[name]
        async with open_link(
            self.network.port(client_name(key)),
            node.address,
            signer=key,
            verify=verify,
            expect=node.key.principal,
            rng=SeededRng(f"{self.seed} link {self._links}"),
        ) as link:
            yield link

    async def suffer(self) -> None:
        """Let the plan's faults happen, until they are over or healed."""
        with self._faults:
            await happen(self, self.plan.faults)

    async def start(self, name: str) -> None:
        """Start a node; returns when it serves, or has failed to. See `SimNode.start`."""
        await self.nodes[name].start()

    async def crash(self, name: str, *, power: bool = False) -> None:
        """Kill a node, see `SimNode.crash`."""
        await self.nodes[name].crash(power=power)

    async def stop(self, name: str) -> None:
        """End a node in order, see `SimNode.stop`."""
        await self.nodes[name].stop()

    async def restart(self, name: str) -> None:
        """Start a node that is down, or end it in order and start it again."""
        await self.stop(name)
        await self.start(name)

    async def heal(self) -> None:
        """End everything that is wrong: the network, the disks, the clocks, who is down or old."""
        self._faults.cancel()
        self.network.heal()
        for node in self.nodes.values():
            node.heal()
            if node.speaks != node.link_limits:
                await node.stop()
            await up_again(node)

    def index_tables(self) -> Tables:
        """What the index has committed, also while it is down. To be read without an await in
        between, and never written.
        """
        return self.index.database.tables()

    def bucket_rows(self, name: str) -> Reader | None:
        """What a bucket durably holds; None while it is not open."""
        node = self.nodes[name]
        assert isinstance(node, BucketNode)
        return node.rows

    def crashed(self, name: str) -> None:
        """A node was killed, or failed."""
        for told in self.on_crash:
            told(name)

    def told(self, name: str, caller: Caller, request: Request, answer: Message) -> None:
        """A node is about to answer."""
        for heard in self.on_answer:
            heard(name, caller, request, answer)

    def logged(self, level: str, event: EventDict) -> None:
        """A node has logged something."""
        self.trace(f"log {level} {event.get('event')}")
        if level in {"error", "exception", "critical"}:
            failure = sys.exc_info()[1]
            told = "" if failure is None else "".join(traceback.format_exception(failure))
            self.errors.append(f"{event.get('event')}: {told}")

    def _config(self) -> Config:
        named = {
            "apps": [self.app.principal.text(PrincipalKind.APP)],
            "operators": [self.operator.principal.text(PrincipalKind.OPERATOR)],
        }
        index = {
            "buckets": [node.key.principal.text(PrincipalKind.BUCKET) for node in self.buckets],
            "grant_ttl": 60,
        }
        bucket = {
            "index": self.index.key.principal.text(PrincipalKind.INDEX),
            "index_peer": self.index.address,
            "floor_interval": 10,
        }
        document: dict[str, object] = {
            "cluster_id": str(CLUSTER),
            "node": {"peer_tls": False},
            "index": _table(self.index) | named | index | dict(self.plan.index),
            "bucket": [
                _table(node) | named | bucket | dict(self.plan.bucket) for node in self.buckets
            ],
        }
        config = parse_config(document, {}, base=Path("sim"))
        assert config.index is not None
        small = {"segment_bytes": _SEGMENT_BYTES, "batch_bytes_max": _BATCH_BYTES}
        return config.model_copy(
            update={
                "index": config.index.model_copy(update={"chunk_bytes": self.plan.chunk_bytes}),
                "bucket": tuple(table.model_copy(update=small) for table in config.bucket),
            }
        )


def client_name(key: KeyPair) -> str:
    """The machine that a client with this key sits at."""
    return f"client-{key.principal.hex()[:6]}"


def _table(node: SimNode) -> dict[str, object]:
    """What every role's config says; nobody serves HTTP here."""
    return {
        "key_file": f"{node.name}/key",
        "data_dir": node.name,
        "http": f"{node.name}.test:80",
        "peer": node.address,
        "admin": f"{node.name}.test:81",
    }


@asynccontextmanager
async def open_world(plan: Plan, sink: Callable[[str], None] | None = None) -> AsyncIterator[World]:
    """A running cluster that every fault of the plan will happen to; virtual time is the caller's.

    `sink` gets every line of the trace.
    """
    async with trio.open_nursery() as nursery:
        world = World(plan, Trace(sink), nursery)
        with _logging_to(world.logged):
            for name in world.nodes:
                await world.start(name)
            nursery.start_soon(world.suffer)
            yield world
            nursery.cancel_scope.cancel()


@contextmanager
def _logging_to(logged: Callable[[str, EventDict], None]) -> Iterator[None]:
    """Have what nodes log told here instead of written, from warnings on."""

    def note(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        logged(method, event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[note],
        wrapper_class=structlog.make_filtering_bound_logger(30),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


@dataclass(frozen=True, slots=True)
class Ran(Generic[T]):
    """How a simulation went."""

    result: T
    digest: str
    """The trace's hash."""
    lines: int
    seconds: float
    """Of virtual time."""


def run_world(
    plan: Plan,
    main: Callable[[World], Awaitable[T]],
    sink: Callable[[str], None] | None = None,
) -> Ran[T]:
    """Run `main` in a world of its own. The same plan always gives the same trace."""

    async def whole() -> Ran[T]:
        async with open_world(plan, sink) as world:
            result = await main(world)
            return Ran(result, world.trace.digest(), world.trace.lines, trio.current_time())

    return run_virtual(whole, plan.seed)

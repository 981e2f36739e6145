"""The buckets as a whole: operators' calls about them, and the jobs that keep enough of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import trio
from typing_extensions import override

from ostnode.env import Clock, Rng
from ostnode.errors import InvalidArgumentError, UnknownCallError
from ostnode.ids import Principal, PrincipalKind
from ostnode.roles.index.core import buckets as core
from ostnode.roles.index.core import topup
from ostnode.roles.index.core.memberrows import Invite
from ostnode.roles.index.core.membership import secret_hash
from ostnode.roles.index.core.rows import BucketState, Provision
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.core.status import fleet_info
from ostnode.roles.index.leading import Transact
from ostnode.roles.index.provider import Order, Provider
from ostnode.roles.index.upkeep import Job
from ostnode.wire import fleet as f
from ostnode.wire import membership as mb
from ostnode.wire.fields import Message, Request

INTERVAL_S: Final = 5.0
"""Between looks at the buckets: half of what they let pass between reports."""
_log = structlog.get_logger(__name__)


class Fleet:
    """What operators ask of the buckets, and what the leader has come to know of them.

    `feed_acked` says where each bucket reads the feed; `alert` what an operator must see to, empty
    when nothing. `activated` and `ordered` count since the process started.
    """

    def __init__(self, rules: Rules, transact: Transact) -> None:
        self._rules = rules
        self._transact = transact
        self.feed_acked: dict[Principal, int] = {}
        self.alert = ""
        self.activated = 0
        self.ordered = 0

    async def answer(self, request: Request) -> Message:
        """Serve `SetBucketState` or `FleetStatus`; raises UnknownCallError for any other."""
        match request:
            case f.SetBucketState(bucket, state):
                return await self._set_state(bucket, state)
            case f.FleetStatus(after):
                acked = dict(self.feed_acked)
                return await self._transact(
                    lambda tables: fleet_info(tables, self._rules, acked, self.alert, after)
                )
            case _:
                raise UnknownCallError("this is an index: it has no such call")

    async def _set_state(self, bucket: Principal, state: str) -> f.BucketStanding:
        if state not in set(BucketState):
            raise InvalidArgumentError("no bucket has such a state")
        now = await self._transact(
            lambda tables: core.decide_state(tables, self._rules, bucket, BucketState(state))
        )
        _log.info("bucket_state_set", bucket=_text(bucket), asked=state, state=now)
        return f.BucketStanding(now)


class LostMarking(Job):
    """Marks buckets lost that have been silent for `lost_after_s`.

    Silence is timed here, from when a last report was first seen: neither a clock that jumps nor an
    index that was away makes a bucket look silent.
    """

    name = "lost_marking"

    def __init__(self, lost_after_s: float) -> None:
        self._lost_after_s = lost_after_s
        self._heard: dict[Principal, tuple[int, float]] = {}
        self.interval_s = min(INTERVAL_S, lost_after_s / 2)

    @override
    async def beat(self, transact: Transact) -> None:
        heard, now = await transact(core.heard_of), trio.current_time()
        before = self._heard
        self._heard = {
            bucket: before[bucket] if before.get(bucket, (-1, now))[0] == seen else (seen, now)
            for bucket, seen in heard.items()
        }
        silent = {
            bucket: seen
            for bucket, (seen, since) in self._heard.items()
            if now - since >= self._lost_after_s
        }
        if silent:
            for bucket in await transact(partial(core.mark_lost, silent=silent)):
                _log.warning("bucket_lost", bucket=_text(bucket), silent_s=self._lost_after_s)


class TopUp(Job):
    """Activates buckets that stand by, or has new ones made, one at a time.

    `promised` tells the bytes of open grants.
    """

    name = "top_up"
    interval_s = INTERVAL_S

    def __init__(
        self,
        fleet: Fleet,
        rules: Rules,
        provider: Provider | None,
        promised: Callable[[], int],
        *,
        retry_s: int,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._fleet = fleet
        self._rules = rules
        self._provider = provider
        self._promised = promised
        self._retry_s = retry_s
        self._clock = clock
        self._rng = rng
        self._carried_out: Provision | None = None

    @override
    async def beat(self, transact: Transact) -> None:
        secret = self._rng.token(mb.JOIN_SECRET_BYTES) if self._provider else b""
        beat = self._look(secret)
        outcome = await transact(lambda tables: topup.top_up(tables, self._rules, beat))
        if outcome.activated is not None:
            self._fleet.activated += 1
            bucket = _text(outcome.activated.principal)
            _log.info("bucket_activated", bucket=bucket, zone=outcome.activated.zone)
        if outcome.making is None:
            self._carried_out = None
        elif outcome.wanted is not None and self._provider is not None:
            self._carried_out = outcome.wanted
            self._order(self._provider, outcome.wanted, secret)
        if self._provider is not None:
            self._provider.keep(await transact(topup.provided))
        self._tell(outcome)

    def _look(self, secret: bytes) -> topup.Beat:
        now = int(self._clock.now())
        invite = None
        if secret:
            invite = Invite(
                invite_id=self._rng.token(mb.INVITE_ID_BYTES),
                secret_hash=secret_hash(secret),
                expires_at=now + min(2 * self._retry_s, mb.INVITE_TTL_S_MAX),
                auto_approve=True,
                label="",
            )
        return topup.Beat(now, self._promised(), invite, self._carried_out, self._retry_s)

    def _order(self, provider: Provider, wanted: Provision, secret: bytes) -> None:
        self._fleet.ordered += 1
        _log.info("bucket_ordered", number=wanted.number, attempt=wanted.attempts)
        provider.provide(Order(wanted.number, wanted.invite_id, secret))

    def _tell(self, outcome: topup.Outcome) -> None:
        """Log once that something is missing which nobody is about to mend, and once that it is."""
        alert, making = "", outcome.making
        if outcome.lack and making is None:
            alert = f"{outcome.lack}, and no bucket stands by"
        elif making is not None and making.attempts > 1:
            times = f"{making.attempts} times"
            alert = f"bucket {making.number} was ordered {times} and has not reported"
        if bool(alert) != bool(self._fleet.alert):
            _log.warning("too_few_buckets", reason=alert) if alert else _log.info("enough_buckets")
        self._fleet.alert = alert


def _text(bucket: Principal) -> str:
    return bucket.text(PrincipalKind.BUCKET)

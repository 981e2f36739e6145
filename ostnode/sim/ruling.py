"""What the app and the operator do: registrations, allowances, blocks, chats' ends, upkeep."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import trio

from ostnode.identity.keys import KeyPair
from ostnode.ids import Uid
from ostnode.sim.calling import Heard, Lane, NoAnswerError
from ostnode.sim.model import Account
from ostnode.sim.setbacks import lose_bucket, rest_bucket, restore_bucket, restore_index
from ostnode.sim.stage import Stage
from ostnode.sim.workload import Act, Step, first_limit
from ostnode.wire import accounts as ac
from ostnode.wire import checking as ck
from ostnode.wire import messages as m
from ostnode.wire import upkeep
from ostnode.wire.fields import Message, Request

M = TypeVar("M", bound=Message)
PERSISTENCE_MAX: Final = 500
"""Rounds of tries: faults end long before."""
_AGAIN_S: Final = 5.0


class App:
    """The chat app's backend. It asks until it is answered, and one thing after the other."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.model = stage, stage.model
        self.lane = Lane(stage.world.app, "app")
        self.operator = Lane(stage.world.operator, "operator")
        self._acts: Mapping[Act, Callable[[random.Random, Account], Awaitable[None]]] = {
            Act.CHANGE_LIMIT: self._change_limit,
            Act.BEGIN_ANEW: self._begin_anew,
            Act.CHANGE_PRINCIPAL: self._change_principal,
            Act.BLOCK: self._block,
            Act.BLOCK_BLOB: self._block_blob,
            Act.CHECK: self._check,
            Act.RESTORE: self._restore,
            Act.RESTORE_BUCKET: self._restore_bucket,
            Act.LOSE_BUCKET: self._lose_bucket,
            Act.REST_BUCKET: self._rest_bucket,
            Act.DELETE_CHAT: self._delete_chat,
            Act.UPKEEP: self._upkeep,
        }

    async def play(self, step: Step) -> None:
        """Do what the step says. Raises ViolationError."""
        self.stage.note(f"app {step.act}")
        rng = step.random()
        account = rng.choice(self.model.accounts)
        try:
            await self._acts[step.act](rng, account)
        except NoAnswerError:
            self.stage.note("no answer")

    async def begin(self) -> None:
        """Register everybody."""
        for account in self.model.accounts:
            await self._register(account)

    async def make_room(self, account: Account) -> None:
        """Give the account more than it can need."""
        account.byte_limit = _PLENTY
        account.limits.add(_PLENTY)
        await self._change_users(m.UserChange("update", account.principal, _PLENTY))

    async def compact_everything(self) -> None:
        """Have every bucket compacted, and wait for it."""
        lines = self.stage.lines
        for node in self.stage.world.buckets:
            heard = await lines.ask(self.operator, node.name, upkeep.CompactBucket())
            assert heard.reply is not None
            plan = heard.reply.message
            assert isinstance(plan, upkeep.CompactionPlan)
            for _ in range(PERSISTENCE_MAX):
                await trio.sleep(_AGAIN_S)
                heard = await lines.ask(self.operator, node.name, upkeep.MaintenanceStatus())
                info = None if heard.reply is None else heard.reply.message
                assert isinstance(info, upkeep.MaintenanceInfo)
                if info.compaction.passes >= plan.pass_number:
                    break
            else:
                raise self.stage.violated(f"the compaction of {node.name} does not end")

    async def persist(self, request: Request, lane: Lane | None = None) -> Heard:
        """Ask until there is an answer; what was in doubt before it is settled when it returns."""
        doubtful = False
        for _ in range(PERSISTENCE_MAX):
            try:
                heard = await self.stage.lines.ask(lane or self.lane, "index", request)
            except NoAnswerError:
                doubtful = True
                await trio.sleep(_AGAIN_S)
                continue
            # An older index does not know every call yet.
            again = heard.code == "unknown_call" or (heard.refusal and heard.refusal.retryable)
            if not again:
                if doubtful or heard.blurred:
                    await self.stage.settle_doubts()
                return replace(heard, blurred=doubtful or heard.blurred)
            await trio.sleep(_AGAIN_S)
        raise self.stage.violated(f"{type(request).__name__} of the app is never answered")

    async def expect(self, request: Request, expected: type[M], lane: Lane | None = None) -> M:
        """Ask until there is an answer, which must be this."""
        heard = await self.persist(request, lane)
        if heard.reply is None or not isinstance(heard.reply.message, expected):
            raise self.stage.violated(f"the app's {type(request).__name__}: {heard.refusal}")
        return heard.reply.message

    async def _change_users(self, *changes: m.UserChange) -> None:
        answer = await self.expect(m.ChangeUsers(changes), m.BatchResult)
        for change, result in zip(changes, answer.results, strict=True):
            if result.code:
                raise self.stage.violated(f"{change.op} of a user: {result.code}")

    async def _register(self, account: Account) -> None:
        await self._change_users(m.UserChange("register", account.principal, account.byte_limit))
        await self._learn_uid(account)

    async def _learn_uid(self, account: Account) -> None:
        info = await self.expect(m.GetUser(account.principal), m.UserInfo)
        if info.uid in self.model.dying:
            raise self.stage.violated("a new registration has the uid of a deleted one")
        account.uid = info.uid

    async def _change_limit(self, rng: random.Random, account: Account) -> None:
        """More, or less, than is in use; in a batch with users who come and go."""
        account.byte_limit = rng.choice([0, 2000, 5000, first_limit(account.number), 1 << 20])
        account.limits.add(account.byte_limit)
        passing = self.stage.new_key(f"passing {rng.randrange(100)}").principal
        changes = [
            m.UserChange("update", account.principal, account.byte_limit, rng.choice(_ON_FULL)),
            m.UserChange("register", passing, 1),
            m.UserChange("delete", passing),
            m.UserChange("delete", self.stage.new_key("nobody").principal),
        ]
        if rng.random() < _TOGETHER:
            changes.append(m.UserChange("register", passing, 2))
        await self._change_users(*changes)
        account.limits = {account.byte_limit}

    async def _begin_anew(self, rng: random.Random, account: Account) -> None:
        """Delete the user and register the principal again, in one batch or some time later."""
        self._ends(account)
        account.byte_limit = first_limit(account.number)
        delete = m.UserChange("delete", account.principal)
        register = m.UserChange("register", account.principal, account.byte_limit)
        if rng.random() < _TOGETHER:
            await self._change_users(delete, register)
        else:
            await self._change_users(delete)
            await trio.sleep(rng.choice([0, 20]))
            await self._change_users(register)
        self.model.dead |= self.model.dying
        account.limits = {account.byte_limit}
        await self._learn_uid(account)

    def _ends(self, account: Account) -> None:
        uid, account.uid = account.uid, None
        if uid is not None:
            self.model.dying.add(Uid(uid))

    async def _change_principal(self, _rng: random.Random, account: Account) -> None:
        """To a new key; and to one that is somebody else's, which is refused."""
        other = self.model.accounts[account.number - 1]
        heard = await self.persist(m.ChangePrincipal(account.principal, other.principal))
        if heard.code != "user_exists":
            raise self.stage.violated(f"two users with one principal: {heard.code or 'done'}")
        new = self.stage.new_key(f"account {account.number} {len(account.old_keys) + 1}")
        account.old_keys.append(account.key)
        request = m.ChangePrincipal(account.principal, new.principal)
        account.moving = True
        heard = await self.persist(request)
        # A try that was not answered may have done it: then nobody has the old one any more.
        if heard.refusal is not None and not (heard.code == "user_unknown" and heard.blurred):
            raise self.stage.violated(f"a user's principal cannot change: {heard.refusal}")
        account.key = new
        account.moving = False

    async def _block(self, rng: random.Random, account: Account) -> None:
        """Block a user, and unblock it a little later."""
        principal = account.principal
        account.blocked = True
        await self.expect(m.BlockPrincipal(principal, blocked=True), m.Ok)
        await trio.sleep(rng.uniform(0, 40))
        await self.expect(m.BlockPrincipal(principal, blocked=False), m.Ok)
        account.blocked = None  # until every bucket has heard

    async def _block_blob(self, rng: random.Random, _account: Account) -> None:
        """As an operator: block a blob, and unblock it a little later."""
        blob_id = rng.choice(self.stage.contents).blob_id
        self.stage.blocked_blobs[blob_id] = True
        await self.expect(ac.BlockBlob(blob_id), m.Ok, self.operator)
        await trio.sleep(rng.uniform(0, 40))
        await self.expect(ac.BlockBlob(blob_id, blocked=False), m.Ok, self.operator)
        self.stage.blocked_blobs[blob_id] = False

    async def _check(self, _rng: random.Random, _account: Account) -> None:
        """As an operator: compare index and buckets while everybody is at work."""
        await self.expect(ck.StartCheck(), ck.CheckProgress, self.operator)

    async def _restore(self, rng: random.Random, _account: Account) -> None:
        await restore_index(self.stage, rng)

    async def _restore_bucket(self, rng: random.Random, _account: Account) -> None:
        await restore_bucket(self.stage, rng)

    async def _lose_bucket(self, rng: random.Random, _account: Account) -> None:
        await lose_bucket(self.stage, rng, self._operate)

    async def _rest_bucket(self, rng: random.Random, _account: Account) -> None:
        await rest_bucket(self.stage, rng, self._operate)

    async def _operate(self, request: Request, expected: type[Message]) -> Message:
        return await self.expect(request, expected, self.operator)

    async def repair_everything(self) -> None:
        """Have a restored index repaired: one repair may uncover the next."""
        found: Sequence[ck.CheckFinding] = ()
        for _ in range(_REPAIRS_MAX):
            found = await self._find(repair=True)
            if not found:
                self.stage.restored = False
                return
        raise self.stage.violated(f"what was restored cannot be repaired: {found[0]}")

    async def check_everything(self) -> None:
        """Compare index and buckets: nothing may be found."""
        findings = await self._find(repair=False)
        if findings:
            raise self.stage.violated(f"a check finds {findings[0]}")

    async def _find(self, *, repair: bool) -> Sequence[ck.CheckFinding]:
        """What a whole check finds."""
        progress = await self.expect(ck.StartCheck(repair=repair), ck.CheckProgress, self.operator)
        for _ in range(PERSISTENCE_MAX):
            if progress.done:
                break
            await trio.sleep(_AGAIN_S)
            progress = await self.expect(ck.GetCheck(progress.run), ck.CheckProgress, self.operator)
        else:
            raise self.stage.violated("a check of index and buckets does not end")
        page = await self.expect(ck.ListFindings(), ck.FindingPage, self.operator)
        return [one for one in page.findings if not self._excused(one)]

    def _excused(self, finding: ck.CheckFinding) -> bool:
        """What a lost bucket took along is told for ever; what one that was put back brought along
        is for an operator to look at.
        """
        lost = finding.kind == "lost_blob" and finding.bucket in self.stage.lost
        return lost or (finding.kind == "charged_elsewhere" and bool(self.stage.old_buckets))

    async def _delete_chat(self, rng: random.Random, _account: Account) -> None:
        chat: KeyPair = rng.choice(self.stage.live)
        self.stage.begin_deletion(chat)
        await self.expect(m.DeleteAccessor(chat.principal), m.Ok)
        self.model.burned.add(chat.principal)

    async def _upkeep(self, rng: random.Random, _account: Account) -> None:
        """As an operator: compaction and scrub, whenever."""
        node = rng.choice(self.stage.world.buckets).name
        request = rng.choice([upkeep.CompactBucket(), upkeep.StartScrub()])
        await self.stage.lines.ask(self.operator, node, request)


_REPAIRS_MAX: Final = 5
_TOGETHER: Final = 0.5
_ON_FULL: Final = ("refuse", "refuse", "evict_oldest")
_PLENTY: Final = 1 << 30

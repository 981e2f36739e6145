"""What a device does: one step after the other, each judged by what was promised before."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from ostnode.errors import InvalidArgumentError
from ostnode.identity.tokens import Scope
from ostnode.ids import NULL_ACCESSOR, Principal
from ostnode.sim.calling import Heard, NoAnswerError
from ostnode.sim.mischief import Mischief
from ostnode.sim.model import Account, Ref, State
from ostnode.sim.plan import CHUNK_BYTES
from ostnode.sim.stage import Stage
from ostnode.sim.uploading import Maker, Making
from ostnode.sim.workload import SIZES, Act, Content, Step
from ostnode.wire import messages as m
from ostnode.wire.fields import READ_BYTES_MAX

_NEW_CONTENT: Final = 0.15
_EXPIRING: Final = 0.1
_MAY_REFUSE_DELETION: Final = frozenset({
    "not_found",
    "token_expired",
    "token_invalid",
    "not_authorized",
    "busy",
    "draining",
})


class Device:
    """One of an account's devices; its steps come one after the other."""

    def __init__(self, stage: Stage, account: Account, name: str) -> None:
        self.stage, self.account, self.name = stage, account, name
        self.model = stage.model
        self.maker = Maker(stage, account, name)
        self.mischief = Mischief(stage, self.maker)
        self._acts: Mapping[Act, Callable[[random.Random, Step], Awaitable[None]]] = {
            Act.UPLOAD: self._upload,
            Act.CUT: self._cut,
            Act.RESUME: self._resume,
            Act.ABANDON: self._abandon,
            Act.STALE: self._stale,
            Act.FORWARD: self._forward,
            Act.READ: self._read,
            Act.DELETE: self._delete,
            Act.DELETE_CHAT: self._delete_chat,
            Act.ASK: self._ask,
            Act.WRONG: self._wrong,
        }

    async def play(self, step: Step) -> None:
        """Do what the step says. Raises ViolationError."""
        self.stage.note(f"{self.name} {step.act}")
        try:
            await self._acts[step.act](step.random(), step)
        except NoAnswerError:
            self.stage.note("no answer")

    async def probe(self) -> None:
        """Upload something new, read it and delete it: nothing stands in the way any more."""
        rng, content = self.stage.rng, Content.of(self.stage.rng.randbytes(_PROBED_BYTES))
        self.stage.contents.append(content)
        chat = self.stage.new_chat()
        self.stage.live.append(chat)
        making = Making(content, (chat.principal,), b"probe")
        await self.maker.upload(making, rng)
        (ref,) = making.refs or (None,)
        if ref is None or ref.bucket is None or ref.state is not State.THERE:
            raise self.stage.violated("nothing can be uploaded though everything is healed")
        token = self.stage.token(chat.principal, self.account.principal)
        node = self.stage.world.name_of(ref.bucket)
        await self.read(node, chat.principal, content, token, rng)
        await self.delete(ref, by_owner=True)

    # --- making references ---

    def _making(self, rng: random.Random, step: Step, content: Content | None = None) -> Making:
        count = rng.choices([0, 1, 2], [1, 7, 2])[0]
        chats = rng.sample(self.stage.live, min(count, len(self.stage.live)))
        expires_at = 0
        if rng.random() < _EXPIRING:
            expires_at = int(self.stage.now) + rng.choice([30, 200, 100_000])
        return Making(
            content or self._some_content(rng),
            tuple(chat.principal for chat in chats),
            step.number.to_bytes(4, "big"),
            expires_at,
        )

    def _some_content(self, rng: random.Random) -> Content:
        """Mostly one that others upload, too."""
        if rng.random() < _NEW_CONTENT:
            content = Content.of(rng.randbytes(rng.choice(SIZES[2:])))
            self.stage.contents.append(content)
            return content
        return rng.choice(self.stage.contents)

    async def _upload(self, rng: random.Random, step: Step) -> None:
        await self.maker.upload(self._making(rng, step), rng)

    async def _cut(self, rng: random.Random, step: Step) -> None:
        """Left in the middle; some of the time the bucket, or the index, is told."""
        several = [content for content in self.stage.contents if content.size > CHUNK_BYTES]
        making = self._making(rng, step, rng.choice(several))
        await self.maker.upload(making, rng, cut=rng.randrange(1, 8))
        told = rng.random()
        if told < _CANCELLED:
            await self._cancel(making.content)
        elif told < _RELEASED:
            await self._release(making.content)

    async def _cancel(self, content: Content) -> None:
        located = await self._locate(self.account.principal, content, b"")
        if located is not None:
            request = m.CancelUpload(content.blob_id)
            await self.stage.lines.ask(self.maker.lane(), located, request)

    async def _release(self, content: Content) -> None:
        granted = await self.maker.allocate(content)
        if granted is not None:
            request = m.ReleaseGrant(granted[1].grant_id)
            await self.stage.lines.ask(self.maker.lane(), "index", request)

    async def _resume(self, rng: random.Random, _step: Step) -> None:
        left = self.stage.begun[self.account.number]
        if left:
            await self.maker.resume(left.pop(rng.randrange(len(left))), rng)

    async def _abandon(self, rng: random.Random, _step: Step) -> None:
        """An allocation that is never used; half of them are given back."""
        content = self._some_content(rng)
        if rng.random() < _RELEASED:
            await self._release(content)
        else:
            await self.maker.allocate(content)

    async def _stale(self, rng: random.Random, step: Step) -> None:
        """A grant is kept until about its end before it is used."""
        await self.maker.upload(self._making(rng, step), rng, wait_s=rng.uniform(*_STALE_S))

    async def _forward(self, rng: random.Random, step: Step) -> None:
        source = self._some_ref(rng, self._reachable)
        if source is not None:
            making = self._making(rng, step, self.stage.content_of(source))
            await self.maker.forward(making, source)

    # --- reading ---

    def _some_ref(self, rng: random.Random, fits: Callable[[Ref], bool]) -> Ref | None:
        refs = [ref for ref in self.model.refs.values() if fits(ref)]
        return rng.choice(refs) if refs else None

    def _reachable(self, ref: Ref) -> bool:
        return ref.name.accessor != NULL_ACCESSOR or ref.name.uid == self.account.uid

    async def _read(self, rng: random.Random, _step: Step) -> None:
        """Of what is there, and of what is not any more: right bytes, or the one refusal."""
        there = partial(self._in_state, State.THERE)
        ref = self._some_ref(rng, there if rng.random() < _THERE else self._reachable)
        if ref is None:
            return
        accessor, token = self.stage.way_to(ref, self.account)
        content = self.stage.content_of(ref)
        node = await self._node_of(rng, ref, accessor, token)
        if node is not None:
            await self.read(node, accessor, content, token, rng)

    def _in_state(self, state: State, ref: Ref) -> bool:
        return self._reachable(ref) and self.stage.state(ref) is state

    async def _node_of(
        self, rng: random.Random, ref: Ref, accessor: Principal, token: bytes
    ) -> str | None:
        if ref.bucket is not None and rng.random() < _KNOWN:
            return self.stage.world.name_of(ref.bucket)
        return await self._locate(accessor, self.stage.content_of(ref), token)

    async def _locate(self, accessor: Principal, content: Content, token: bytes) -> str | None:
        request = m.Locate(accessor, content.blob_id, token)
        heard = await self.stage.lines.ask(self.maker.lane(), "index", request)
        if heard.reply is None:
            return None
        address = heard.reply.message
        assert isinstance(address, m.BucketAddress)
        return self.stage.world.name_of(address.principal)

    async def read(
        self, node: str, accessor: Principal, content: Content, token: bytes, rng: random.Random
    ) -> None:
        """Read from a bucket; both what comes and what does not must be right."""
        offset = rng.randrange(content.size + 1) if rng.random() < _PARTS else 0
        request = m.ReadBlob(accessor, content.blob_id, offset, READ_BYTES_MAX, token)
        before = self._expected(node, accessor, content)
        heard = await self.stage.lines.ask(self.maker.lane(), node, request)
        after = self._expected(node, accessor, content)
        where = f"{self.name}: {accessor.hex()[:8]}/{content.blob_id.hex()[:8]} at {node}"
        if heard.reply is not None:
            if bytes(heard.reply.body) != content.data[offset:]:
                raise self.stage.violated(f"{where}: wrong bytes")
            if before is State.GONE and after is State.GONE:
                raise self.stage.violated(f"{where}: deleted, or never there, and readable")
        elif heard.code != "not_found":
            if heard.refusal is None or not heard.refusal.retryable:
                raise self.stage.violated(f"{where}: {heard.refusal}")
        elif before is State.THERE and after is State.THERE and self.stage.trusts_clock(node):
            raise self.stage.violated(f"{where}: acknowledged, and not found")
        self.stage.note(f"read {heard.code or 'ok'}")

    def _expected(self, node: str, accessor: Principal, content: Content) -> State:
        """What this bucket should answer now."""
        if accessor in self.stage.burned_at.get(node, ()):
            return State.GONE
        state = self.stage.readable(self.account, accessor, content)
        if state is not State.THERE:
            return state
        if accessor == self.account.principal:
            return state if self.stage.knows_owner(node, self.account) else State.OPEN
        here = self.stage.world.principal_of(node)
        refs = self.model.through(accessor, content.blob_id)
        sure = any(ref.bucket == here and self.stage.state(ref) is State.THERE for ref in refs)
        return State.THERE if sure else State.OPEN

    # --- taking away ---

    async def _delete(self, rng: random.Random, _step: Step) -> None:
        """By the owner, or by a member of the chat with a token."""
        ref = self._some_ref(rng, self._deletable)
        if ref is None or ref.bucket is None:
            return
        by_owner = ref.name.uid == self.account.uid and rng.random() < _BY_OWNER
        if not by_owner and ref.name.accessor == NULL_ACCESSOR:
            return
        await self.delete(ref, by_owner=by_owner)

    def _deletable(self, ref: Ref) -> bool:
        return ref.bucket is not None and self._reachable(ref)

    async def delete(self, ref: Ref, *, by_owner: bool) -> None:
        """Remove one reference."""
        name, bucket = ref.name, ref.bucket
        assert bucket is not None
        token = b""
        if not by_owner:
            token = self.stage.token(
                name.accessor,
                self.account.principal,
                Scope.REF_DEL,
                blob=name.blob_id,
                owner=name.uid,
                ref_id=name.ref_id,
            )
        key = m.ReferenceKey(name.blob_id, name.uid, name.accessor, name.ref_id, token)
        node = self.stage.world.name_of(bucket)
        before = self.stage.state(ref)
        if by_owner and not self.stage.knows_owner(node, self.account):
            before = State.OPEN
        ref.begin_removing()
        request = m.RemoveReferences((key,))
        heard = await self.stage.lines.ask(self.maker.lane(), node, request)
        self._note_removal(ref, heard, before, node)

    def _note_removal(self, ref: Ref, heard: Heard, before: State, node: str) -> None:
        if heard.reply is None:
            code = heard.code
        else:
            results = heard.reply.message
            assert isinstance(results, m.BatchResult)
            (result,) = results.results
            code = result.code
        self.stage.note(f"deletion {code or 'ok'}")
        if code not in _MAY_REFUSE_DELETION | {""}:
            raise self.stage.violated(f"{self.name}: deletion of {ref.name}: {code}")
        if not code:
            ref.end_removing(gone=True)
        elif not heard.blurred:
            ref.end_removing(gone=False)
            undisturbed = self.stage.state(ref) is State.THERE and self.account.blocked is False
            if before is State.THERE and undisturbed and self.stage.trusts_clock(node):
                raise self.stage.violated(f"{self.name}: deletion of {ref.name}: {code}")

    async def _delete_chat(self, rng: random.Random, _step: Step) -> None:
        """By a member, with a token of the chat."""
        chat = rng.choice(self.stage.live)
        token = self.stage.token(chat.principal, self.account.principal, Scope.ACC_DEL)
        self.stage.begin_deletion(chat)
        request = m.DeleteAccessor(chat.principal, token)
        heard = await self.stage.lines.ask(self.maker.lane(), "index", request)
        if heard.reply is not None:
            self.model.burned.add(chat.principal)
        elif heard.code not in _MAY_REFUSE_DELETION | {"user_unknown"}:
            raise self.stage.violated(f"{self.name}: deletion of a chat: {heard.refusal}")

    # --- questions, and wrong things ---

    async def _ask(self, rng: random.Random, _step: Step) -> None:
        content = self._some_content(rng)
        asks = [m.GetUser(), m.CanForward(content.blob_id, content.size)]
        heard = await self.stage.lines.ask(self.maker.lane(), "index", rng.choice(asks))
        if heard.reply is None:
            return
        message = heard.reply.message
        if isinstance(message, m.UserInfo) and self.account.uid not in {None, message.uid}:
            raise self.stage.violated(f"{self.name}: has another registration's account")

    async def _wrong(self, rng: random.Random, step: Step) -> None:
        try:
            await self.mischief.play(rng, step)
        except InvalidArgumentError:
            self.stage.note("nothing wrong could be said")


_STALE_S: Final = (50.0, 115.0)
"""A grant lives for a minute, and clocks may be a minute apart."""
_PROBED_BYTES: Final = 600
_CANCELLED: Final = 0.3
_RELEASED: Final = 0.5
_THERE: Final = 0.7
_KNOWN: Final = 0.8
_PARTS: Final = 0.3
_BY_OWNER: Final = 0.7

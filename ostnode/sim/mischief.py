"""Wrong things that people do on purpose: each must be refused, and change nothing for others."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from ostnode.identity.tokens import Scope
from ostnode.ids import NULL_ACCESSOR, Principal, Uid
from ostnode.sim.calling import Heard
from ostnode.sim.model import Ref, State
from ostnode.sim.stage import DeadGrant, Stage
from ostnode.sim.uploading import Maker
from ostnode.sim.workload import Content, Step
from ostnode.wire import messages as m
from ostnode.wire.fields import READ_BYTES_MAX, Request

_ENORMOUS: Final = (1 << 63) - 1
_WRONG_BYTES: Final = 200
_READ: Final = frozenset({"not_found"})
_GRANT: Final = frozenset({
    "grant_invalid",
    "grant_closed",
    "grant_expired",
    "user_unknown",
    "not_authorized",
    "accessor_deleted",
    "busy",
})


class Mischief:
    """The wrong things one device tries."""

    def __init__(self, stage: Stage, maker: Maker) -> None:
        self.stage, self.maker, self.account = stage, maker, maker.account
        self._tricks: Sequence[Callable[[random.Random, Step], Awaitable[None]]] = (
            self._read_with_another_token,
            self._use_a_foreign_grant,
            self._use_a_dead_grant,
            self._use_a_dead_grant,
            self._push_wrong_bytes,
            self._push_misfits,
            self._delete_without_a_right,
            self._delete_twice_with_a_token,
            self._overdraw,
            self._rule,
            self._forward_what_is_not_shown,
        )

    async def play(self, rng: random.Random, step: Step) -> None:
        """One of them. Raises ViolationError when it is not refused."""
        await rng.choice(self._tricks)(rng, step)

    async def _refused(
        self, node: str, request: Request, codes: frozenset[str], body: bytes = b""
    ) -> Heard:
        """Make the call, which must be refused with one of these."""
        heard = await self.stage.lines.ask(self.maker.lane(), node, request, body)
        name = f"{self.maker.name}: {type(request).__name__} that is wrong"
        if heard.reply is not None:
            raise self.stage.violated(f"{name} was done")
        retryable = heard.refusal is not None and heard.refusal.retryable
        if heard.code not in codes and not retryable:
            raise self.stage.violated(f"{name}: {heard.refusal}")
        self.stage.note(f"refused as it should be: {heard.code}")
        return heard

    def _some_ref(self, rng: random.Random, fits: Callable[[Ref], bool]) -> Ref | None:
        refs = [ref for ref in self.stage.model.refs.values() if ref.bucket and fits(ref)]
        return rng.choice(refs) if refs else None

    def _node_of(self, bucket: Principal | None) -> str:
        assert bucket is not None
        return self.stage.world.name_of(bucket)

    async def _read_with_another_token(self, rng: random.Random, _step: Step) -> None:
        """Of another caller, of another chat, for another blob, for something else, or none."""
        ref = self._some_ref(rng, lambda ref: ref.name.accessor != NULL_ACCESSOR)
        if ref is None:
            return
        accessor, own = ref.name.accessor, self.account.principal
        stranger = self.stage.new_key("stranger")
        other = rng.choice(list(self.stage.chats))
        tokens = [
            b"",
            self.stage.token(accessor, stranger.principal),
            self.stage.token(accessor, own, blob=rng.randbytes(32)),
            self.stage.token(accessor, own, Scope.ACC_DEL),
            b"\xff" * 80,
        ]
        if other != accessor:
            tokens.append(self.stage.token(other, own))
        request = m.ReadBlob(accessor, ref.name.blob_id, 0, READ_BYTES_MAX, rng.choice(tokens))
        await self._refused(self._node_of(ref.bucket), request, _READ)

    async def _use_a_foreign_grant(self, rng: random.Random, step: Step) -> None:
        """Push with a grant that was given to somebody else."""
        content = rng.choice(self.stage.contents)
        granted = await self.maker.allocate(content)
        others = [one for one in self.stage.model.accounts if one is not self.account]
        if granted is None:
            return
        thief = Maker(self.stage, rng.choice(others), f"{self.maker.name}'s thief")
        request = m.PushChunk(granted[0].grant, 0, ref_id=step.number.to_bytes(4, "big"))
        node = self._node_of(granted[1].bucket)
        body = content.data[: granted[1].chunk_bytes]
        await Mischief(self.stage, thief)._refused(  # noqa: SLF001  the thief's own doing
            node, request, _GRANT, body
        )

    async def _use_a_dead_grant(self, rng: random.Random, step: Step) -> None:
        """Push once more with a grant whose end was acknowledged."""
        mine = [dead for dead in self.stage.dead_grants if dead.account is self.account]
        if not mine:
            return
        dead = rng.choice(mine)
        request = m.PushChunk(dead.data, 0, ref_id=b"again" + step.number.to_bytes(4, "big"))
        body = dead.content.data[: dead.grant.chunk_bytes]
        await self._refused(self._node_of(dead.grant.bucket), request, _GRANT, body)

    async def _push_wrong_bytes(self, rng: random.Random, step: Step) -> None:
        """Bytes that do not hash to the name: the grant dies of them."""
        said = Content.of(rng.randbytes(_WRONG_BYTES))
        granted = await self.maker.allocate(said)
        if granted is None:
            return
        request = m.PushChunk(granted[0].grant, 0, ref_id=step.number.to_bytes(4, "big"))
        codes = _GRANT | {"hash_mismatch"}
        node = self._node_of(granted[1].bucket)
        heard = await self._refused(node, request, codes, rng.randbytes(said.size))
        if heard.code == "hash_mismatch":
            dead = DeadGrant(self.account, granted[0].grant, granted[1], said)
            self.stage.note_dead(dead)

    async def _push_misfits(self, rng: random.Random, step: Step) -> None:
        """A chunk of a wrong size or place; the upload it is of takes no harm."""
        content = rng.choice([one for one in self.stage.contents if one.size])
        granted = await self.maker.allocate(content)
        if granted is None:
            return
        allocation, grant = granted
        ref_id = step.number.to_bytes(4, "big")
        if rng.random() < _HALF:
            request = m.PushChunk(allocation.grant, 1 << 20, ref_id=ref_id)
            codes = _GRANT | {"chunk_out_of_range"}
        else:
            request = m.PushChunk(allocation.grant, 0, ref_id=ref_id)
            codes = _GRANT | {"chunk_size_mismatch"}
        body = content.data[: grant.chunk_bytes] + b"!"
        codes |= {"frame_too_large"}
        await self._refused(self._node_of(grant.bucket), request, codes, body)

    async def _delete_without_a_right(self, rng: random.Random, _step: Step) -> None:
        """Somebody else's reference, without a token, or with one for another reference."""
        own = self.account.uid
        known = {account.uid for account in self.stage.model.accounts}
        ref = self._some_ref(rng, lambda ref: ref.name.uid != own and ref.name.uid in known)
        if ref is None or own is None or ref.name.accessor == NULL_ACCESSOR:
            return
        token = b""
        if rng.random() < _HALF:
            named = {"blob": ref.name.blob_id, "owner": Uid(own), "ref_id": ref.name.ref_id}
            accessor = ref.name.accessor
            token = self.stage.token(accessor, self.account.principal, Scope.REF_DEL, **named)
        await self._refused_item(ref, token, {"not_found", "token_invalid", "token_expired"})

    async def _refused_item(self, ref: Ref, token: bytes, codes: set[str]) -> None:
        name = ref.name
        key = m.ReferenceKey(name.blob_id, name.uid, name.accessor, name.ref_id, token)
        request, node = m.RemoveReferences((key,)), self._node_of(ref.bucket)
        heard = await self.stage.lines.ask(self.maker.lane(), node, request)
        if heard.reply is None:
            return  # blocked, or busy
        results = heard.reply.message
        assert isinstance(results, m.BatchResult)
        if results.results[0].code not in codes:
            code = results.results[0].code or "done"
            raise self.stage.violated(f"{self.maker.name}: deletion without a right: {code}")
        self.stage.note(f"refused as it should be: {results.results[0].code}")

    async def _delete_twice_with_a_token(self, rng: random.Random, _step: Step) -> None:
        """A token's first result is its last: another reference is not deleted with it."""
        ref = self._some_ref(
            rng, lambda ref: ref.name.accessor != NULL_ACCESSOR and ref.state is State.THERE
        )
        if ref is None:
            return
        name, caller = ref.name, self.account.principal
        named = {"blob": name.blob_id, "owner": name.uid, "ref_id": name.ref_id + b"?"}
        token = self.stage.token(name.accessor, caller, Scope.REF_DEL, **named)
        await self._refused_item(ref, token, {"not_found", "token_invalid", "token_expired"})

    async def _overdraw(self, rng: random.Random, _step: Step) -> None:
        """More than anybody may have."""
        size = rng.choice([_ENORMOUS, 1 << 62, 1 << 40])
        request = m.Allocate(Content.of(rng.randbytes(8)).blob_id, size)
        codes = frozenset({
            "allowance_exceeded", "blob_too_large", "user_unknown", "not_authorized",
        })  # fmt: skip
        await self._refused("index", request, codes)

    async def _rule(self, rng: random.Random, _step: Step) -> None:
        """What only the app, or a bucket, may do."""
        own = self.account.principal
        requests: list[Request] = [
            m.ChangeUsers((m.UserChange("update", own, _ENORMOUS),)),
            m.BlockPrincipal(self.stage.new_key("stranger").principal),
            m.ChangePrincipal(own, self.stage.new_key("stranger").principal),
            m.GetUser(self.stage.model.accounts[self.account.number - 1].principal),
            m.SyncBucket(1, 1, (), m.Space(1, 1, 1), ""),
            m.Feed(0, 0, 0),
        ]
        await self._refused("index", rng.choice(requests), frozenset({"not_authorized"}))

    async def _forward_what_is_not_shown(self, rng: random.Random, _step: Step) -> None:
        """Forward a blob by its hash alone."""
        content = Content.of(rng.randbytes(_WRONG_BYTES))
        granted = await self.maker.allocate(content)
        if granted is None:
            return
        chat = rng.choice(self.stage.live)
        request = m.AddReference(
            granted[0].grant, self.account.principal, b"", (chat.principal,), b"x"
        )
        codes = _GRANT | {"not_found"}
        await self._refused(self._node_of(granted[1].bucket), request, codes)


_HALF: Final = 0.5

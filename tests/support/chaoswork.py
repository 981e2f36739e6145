"""What people do during the chaos: each device one operation after the other, all noted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from ostnode.client import (
    Attempt,
    Client,
    ClientOptions,
    Phase,
    Progress,
    UnreachableError,
    mint_accessor_delete,
    mint_ref_delete,
)
from ostnode.errors import (
    AccessorDeletedError,
    AllowanceExceededError,
    GrantClosedError,
    GrantExpiredError,
    GrantInvalidError,
    NotFoundError,
    OstError,
    UploadConflictError,
    UserUnknownError,
)
from ostnode.ids import NULL_ACCESSOR, Principal
from ostnode.wire import messages as m
from tests.support.chaosmodel import Account, Content, Ref, State
from tests.support.chaosworld import World, client_as, register

REFUSED = (AccessorDeletedError, AllowanceExceededError, UploadConflictError, UserUnknownError)
"""An upload or forward that is refused so has made nothing, unless an earlier attempt has."""
GRANT_GONE = (GrantClosedError, GrantExpiredError, GrantInvalidError)
"""Where several tasks use one blob in one name: the grant may end in somebody else's hands."""


class Worker:
    """One of a user's devices: one operation after the other, each noted in the model."""

    def __init__(self, world: World, account: Account, client: Client, app: Client) -> None:
        self.world, self.account, self.client, self.app = world, account, client, app
        self.model, self.random = world.model, world.random
        self.blurred = False

    async def run(self) -> None:
        acts = {
            self.upload: 45,
            self.cut_upload: 10,
            self.forward: 14,
            self.delete: 14,
            self.read: 12,
            self.abandon: 5,
            self.burn: 1.5,
            self.begin_anew: 0.3,
        }
        while not self.world.over:
            act = self.random.choices([*acts], [*acts.values()])[0]
            self.blurred = False
            await act()
            await trio.sleep(self.random.uniform(0, 0.3))

    def observe(self, attempt: Attempt) -> None:
        """An attempt without a clear answer may have done what it was sent for."""
        if attempt.code in {"unreachable", "bad_answer", "internal", "shutting_down"}:
            self.blurred = True
        if attempt.code in {"bad_answer", "internal", "data_corrupt"}:
            raise self.world.violated(f"{attempt}")

    # --- making references ---

    async def upload(self) -> None:
        await self._make("upload", self._some_accessors(), self.world.some_content())

    async def _make(
        self, what: str, accessors: list[Principal], content: Content, cut_at: int | None = None
    ) -> None:
        refs = self.model.begin(self.account, accessors, content, self.world.new_ref_id())
        scope = trio.CancelScope()

        def watch(progress: Progress) -> None:
            if cut_at is not None and progress.phase is Phase.PUSH and progress.done >= cut_at:
                scope.cancel()

        with scope:
            await self._note_making(
                what,
                refs,
                lambda: self.client.upload(
                    content.data, accessors=accessors, ref_id=refs[0].ref_id, progress=watch
                ),
            )
        if scope.cancelled_caught:
            self._end(what, refs, "cut")

    async def _note_making(self, what, refs: list[Ref], act) -> None:
        self.world.note(f"{what} {', '.join(map(str, refs))}")
        try:
            uploaded = await act()
        except REFUSED as error:
            if not self.blurred:
                for ref in refs:
                    ref.state = State.GONE
                self._end(what, [], f"refused: {error.code}: {refs[0]}")
            else:
                self._end(what, refs, f"blurred, then {error.code}")
        except (UnreachableError, *GRANT_GONE) as error:
            self._end(what, refs, f"open: {error}")
        except OstError as error:
            if not error.retryable:
                raise self.world.violated(f"{what} {refs[0]}: {error!r}") from error
            self._end(what, refs, f"open: {error.code}")
        else:
            self.model.made(refs, uploaded.reference, uploaded.bucket)
            self._end(what, [], f"ok: {', '.join(map(str, refs))}")

    def _end(self, what: str, refs: list[Ref], how: str) -> None:
        self.model.left_open(refs)
        self.world.note(f"{what} {how} {', '.join(map(str, refs))}")
        self.world.count(f"{what} {how.split(':', maxsplit=1)[0]}")

    async def cut_upload(self) -> None:
        """Given up at some point; half of the time the bucket is told."""
        content = self.world.some_content()
        await self._make(
            "cut upload", self._some_accessors(), content, self.random.randint(0, content.size)
        )
        if self.random.random() < 0.5:
            with suppress(UnreachableError, OstError):
                grant = await self.client.allocated_bucket(content.blob_id, content.size)
                await self.client.cancel_upload(grant.bucket, content.blob_id)

    async def forward(self) -> None:
        source = self._standing()
        if source is None:
            return
        accessor, token = self._way_to(source)
        refs = self.model.begin(
            self.account, self._some_accessors(), source.content, self.world.new_ref_id()
        )

        async def act():
            try:
                return await self.client.forward(
                    source.content.blob_id,
                    source.content.size,
                    [ref.accessor for ref in refs if ref.accessor != NULL_ACCESSOR],
                    source=accessor,
                    token=token,
                    ref_id=refs[0].ref_id,
                )
            except NotFoundError as error:
                if self.model.state(source) is State.THERE:
                    raise self.world.violated(f"forward of {source}: not found") from error
                raise UnreachableError("", "the source went away") from error

        await self._note_making("forward", refs, act)

    async def abandon(self) -> None:
        """An allocation that is never used; some are given back."""
        content = self.world.some_content()
        self.world.note(f"abandon {self.account.name} {content.blob_id}")
        with suppress(UnreachableError, OstError):
            grant = await self.client.allocated_bucket(content.blob_id, content.size)
            if self.random.random() < 0.5:
                await self.client.release_grant(grant.grant_id)

    # --- taking them away ---

    async def delete(self) -> None:
        """By the owner, or with a token of the chat."""
        ref = self._standing(
            lambda ref: ref.owner == self.account.uid or ref.accessor in self._live
        )
        if ref is None:
            return
        by_owner = ref.owner == self.account.uid and self.random.random() < 0.7
        if not by_owner and ref.accessor == NULL_ACCESSOR:
            return
        token = b"" if by_owner else self._deletion_of(ref)
        ref.state = State.OPEN
        what = "owner delete" if by_owner else "token delete"
        self.world.note(f"{what} {ref} by {self.account.name}")
        key = m.ReferenceKey(ref.content.blob_id, ref.owner, ref.accessor, ref.ref_id, token)
        try:
            await self.client.delete_reference(ref.bucket, key)
        except NotFoundError as error:
            ref.state = State.THERE  # what all else says of it
            if self.model.state(ref) is State.THERE and not (self.blurred and by_owner):
                raise self.world.violated(f"{what} of {ref}: not found") from error
            ref.state = State.GONE
            self._end(what, [], "gone already")
        except (UnreachableError, UserUnknownError) as error:
            self._end(what, [], f"open: {error}: {ref}")
        except OstError as error:
            if not error.retryable:
                raise self.world.violated(f"{what} of {ref}: {error!r}") from error
            self._end(what, [], f"open: {error.code}: {ref}")
        else:
            ref.state = State.GONE
            self._end(what, [], f"ok: {ref}")
            await self._check_gone(ref)

    def _deletion_of(self, ref: Ref) -> bytes:
        return mint_ref_delete(
            self.world.chat_of(ref.accessor),
            self.client.principal,
            cluster_id=self.world.cluster.cluster_id,
            blob_id=ref.content.blob_id,
            owner=ref.owner,
            ref_id=ref.ref_id,
        )

    async def _check_gone(self, ref: Ref) -> None:
        """What is deleted is deleted at once, unless another message has the same blob."""
        if ref.accessor == NULL_ACCESSOR:
            return
        token = self.world.read_token(ref.accessor, self.client.principal)
        blob_id = ref.content.blob_id
        if not self.model.all_deleted(ref.accessor, blob_id):
            return
        try:
            await self.client.blob_info(ref.accessor, blob_id, token=token, bucket=ref.bucket)
        except (NotFoundError, UnreachableError):
            return
        if self.model.all_deleted(ref.accessor, blob_id):
            raise self.world.violated(f"{ref} is deleted and readable")

    async def burn(self) -> None:
        """Delete a chat: the app does, or a user with a token."""
        chat = self.random.choice(self.world.live)
        self.world.live[self.world.live.index(chat)] = self.world.new_chat()
        self.model.burning.add(chat.principal)
        self.world.note(f"burn {chat.principal.hex()[:6]}")
        token = mint_accessor_delete(
            chat, self.client.principal, cluster_id=self.world.cluster.cluster_id
        )
        by_app = self.random.random() < 0.5
        try:
            if by_app:
                await self.app.delete_accessor(chat.principal)
            else:
                await self.client.delete_accessor(chat.principal, token=token)
        except (UnreachableError, UserUnknownError, OstError) as error:
            if isinstance(error, OstError) and not (
                error.retryable or error.code == "user_unknown"
            ):
                raise self.world.violated(f"burn: {error!r}") from error
            self._end("burn", [], f"open: {error}: {chat.principal.hex()[:6]}")
        else:
            self.model.burned.add(chat.principal)
            self._end("burn", [], f"ok: {chat.principal.hex()[:6]}")

    async def begin_anew(self) -> None:
        """The app deletes the user and registers the principal again: another uid."""
        account = self.account
        if account.uid is None:
            return
        old, account.uid = account.uid, None
        account.lives += 1
        self.model.dying.add(old)
        await self.world.persist(
            f"delete user {account.name} {old.hex()}",
            lambda: self.app.delete_user(account.principal),
        )
        self.model.dead.add(old)
        await register(self.world, self.app, account)
        if account.uid in self.model.dead:
            raise self.world.violated(f"{account.name} has its old uid again")
        self.world.count("begin anew")

    # --- reading ---

    async def read(self) -> None:
        ref = self._standing()
        if ref is None:
            return
        accessor, token = self._way_to(ref)
        bucket = self.random.choice([None, ref.bucket])
        try:
            data = await self.client.read(accessor, ref.content.blob_id, token=token, bucket=bucket)
        except UnreachableError:
            self.world.count("read unreachable")
        except OstError as error:
            if self.model.state(ref) is State.THERE and not error.retryable:
                raise self.world.violated(f"read of {ref}: {error!r}") from error
        else:
            self.world.count("read ok")
            if data != ref.content.data:
                raise self.world.violated(f"read of {ref}: other bytes")

    @property
    def _live(self) -> set[Principal]:
        return {chat.principal for chat in self.world.live}

    def _some_accessors(self) -> list[Principal]:
        count = self.random.choices([0, 1, 2], [1, 7, 2])[0]
        return [chat.principal for chat in self.random.sample(self.world.live, count)]

    def _standing(self, fits: Callable[[Ref], bool] = lambda _ref: True) -> Ref | None:
        """A reference that is there and that this worker can reach."""
        refs = [
            ref
            for ref in self.model.standing()
            if fits(ref) and (ref.accessor != NULL_ACCESSOR or ref.owner == self.account.uid)
        ]
        return self.random.choice(refs) if refs else None

    def _way_to(self, ref: Ref) -> tuple[Principal, bytes]:
        if ref.accessor == NULL_ACCESSOR:
            return self.client.principal, b""
        return ref.accessor, self.world.read_token(ref.accessor, self.client.principal)


async def work(world: World, account: Account, app: Client, options: ClientOptions) -> None:
    """One device until the chaos is over."""
    workers: list[Worker] = []

    def observe(attempt: Attempt) -> None:
        workers[0].observe(attempt)

    async with client_as(world, account.key, observe, options) as client:
        workers.append(Worker(world, account, client, app))
        await workers[0].run()


async def audit(world: World, app: Client) -> None:
    """No account goes over its limit, at any moment."""
    while not world.over:
        for account in world.accounts:
            with suppress(UnreachableError, OstError):
                seen = (await app.user(account.principal)).allowance
                if seen.used + seen.reserved > seen.limit:
                    raise world.violated(f"{account.name} is over the limit: {seen}")
        await trio.sleep(0.2)

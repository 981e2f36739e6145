"""References and uploads against a model, through crashes, expiries, deletions and an index.

The model is a set of references that were acknowledged; what the bucket may show follows from it.
The index is the one of the tests: it grants by the rules, sees only what is synced, and must
never account for less than a user holds.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

from blake3 import blake3
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ostnode.errors import NotFoundError, OstError
from ostnode.identity.tokens import AccessToken, Grant, Scope
from ostnode.ids import NULL_ACCESSOR, BlobId, GrantId, Principal, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.admission import ask_for
from ostnode.roles.bucket.core.chunks import count_chunks
from ostnode.roles.bucket.core.draft import Pushed
from ostnode.roles.bucket.core.reading import Access, find_readable
from ostnode.roles.bucket.core.references import forward, remove
from ostnode.roles.bucket.core.rules import Rules
from ostnode.roles.bucket.core.sweeps import expire_upload, sweep_slice
from ostnode.roles.bucket.core.sync import acknowledge, apply_feed, raise_floor
from ostnode.roles.bucket.core.uploads import (
    Received,
    accept,
    accept_whole,
    cancel,
    finish,
)
from ostnode.roles.bucket.records import FeedCursor, Init, Upload
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import decode_event
from tests.support.bucketkit import (
    ALICE,
    BOB,
    BUCKET,
    CHUNK_BYTES,
    CLUSTER,
    INDEX,
    NOW,
    FakeIndex,
    OpenGrant,
    blob_of,
    key,
    pieces,
)
from tests.support.bucketlog import LogInAList

USERS = (ALICE, BOB)
CHATS = tuple(key(f"chat {n}").principal for n in range(4))
DATA = (b"", b"one chunk", bytes(range(40)), bytes(range(1, 33)))
REF_IDS = (b"", b"2")
RULES = Rules(BUCKET.principal, user_references_max=8, free_bytes_min=0)
ROOM = 150
"""Bytes of disk: now and then too few for what is promised."""
GRANT_TTL_S = 100

Accessors = tuple[Principal, ...]


@dataclass
class Model:
    """What the bucket has acknowledged, or is about to."""

    references: dict[t.ReferenceId, int] = field(default_factory=dict)
    """Name → expiry."""
    burned: set[Principal] = field(default_factory=set)
    deleted: set[Uid] = field(default_factory=set)
    completed: dict[GrantId, m.BlobReference] = field(default_factory=dict)
    dead: set[GrantId] = field(default_factory=set)

    def stands(self, name: t.ReferenceId, now: int) -> bool:
        expires_at = self.references.get(name)
        if expires_at is None or 0 < expires_at <= now:
            return False
        return name.accessor not in self.burned and name.uid not in self.deleted

    def standing(self, now: int) -> set[t.ReferenceId]:
        return {name for name in self.references if self.stands(name, now)}


class BucketMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log = LogInAList()
        self.model = Model()
        self.history = [copy.deepcopy(self.model)]
        """The model after each group of the log."""
        self.index = FakeIndex(incarnation=NOW * 1_000_000)
        self.now = NOW
        self.uids = {user.principal: Uid(user.principal[:8]) for user in USERS}
        self.grants: list[Grant] = []
        self.revoking: set[GrantId] = set()
        self.said: dict[GrantId, Upload] = {}
        self.serial = 0
        self.version = 0

    # --- what the bucket does ---------------------------------------------------------------

    def decide(self, decision):
        return self.log.decide(decision)

    def note(self) -> None:
        """The model as it is belongs to the groups staged since the last note."""
        while len(self.history) <= len(self.log.groups):
            self.history.append(copy.deepcopy(self.model))
        self.history[-1] = copy.deepcopy(self.model)

    @initialize()
    def begin(self) -> None:
        self.decide(lambda draft: draft.add(Init(NOW * 1_000_000, INDEX.principal)))
        self.log.sync()
        self.note()

    def completed(self, answer: object, upload: Upload) -> None:
        """Take an answer into the model; whatever it says must be allowed."""
        if isinstance(answer, m.PushResult):
            assert answer.missing == 0
            assert answer.reference is not None
            self.take_completion(answer.reference, upload)
        elif isinstance(answer, OstError) and answer.code == "hash_mismatch":
            assert upload.grant_id not in self.model.completed
            self.model.dead.add(upload.grant_id)
        self.note()

    def take_completion(self, reference: m.BlobReference, upload: Upload) -> None:
        before = self.model.completed.get(upload.grant_id)
        names = [
            t.ReferenceId(reference.blob_id, accessor, reference.owner, reference.ref_id)
            for accessor in reference.accessors
        ]
        if before is not None:
            # Only the first answer again, and only while it is true.
            assert reference == before
            assert all(self.model.stands(name, self.now) for name in names)
            return
        assert upload.grant_id not in self.model.dead
        assert upload.uid not in self.model.deleted
        assert not self.model.burned & set(reference.accessors)
        assert set(reference.accessors) == set(upload.accessors) - self.model.burned
        self.model.completed[upload.grant_id] = reference
        for name in names:
            if not self.model.stands(name, self.now):
                self.model.references[name] = upload.expires_at

    def allocate(self, user, data: bytes) -> Grant | None:
        """One open grant for a uid and a blob; asked for again, it is renewed. None when busy."""
        uid, blob_id = self.uids[user.principal], blob_of(data)
        end = self.now + GRANT_TTL_S
        for grant_id, opened in self.index.grants.items():
            if (opened.uid, opened.blob_id) == (uid, blob_id):
                if grant_id in self.revoking:
                    return None
                opened.end = end
                grant = next(grant for grant in self.grants if grant.grant_id == grant_id)
                self.grants.append(replace(grant, expires_at=end))
                return self.grants[-1]
        self.serial += 1
        charged = (uid, blob_id) in self.index.charges
        grant = Grant(
            grant_id=GrantId((NOW * 1_000_000).to_bytes(8, "big") + self.serial.to_bytes(8, "big")),
            index=INDEX.principal,
            bucket=BUCKET.principal,
            bucket_incarnation=NOW * 1_000_000,
            user=user.principal,
            uid=uid,
            blob_id=blob_id,
            size=len(data),
            chunk_bytes=CHUNK_BYTES,
            reserved=0 if charged else len(data),
            issued_at=self.now,
            expires_at=end,
        )
        self.index.grants[grant.grant_id] = OpenGrant(uid, blob_id, grant.reserved, end)
        self.grants.append(grant)
        return grant

    def some_grant(self, user, data: bytes, old: int) -> Grant | None:
        """A good grant, or now and then one that was given before."""
        if old and self.grants:
            grant = self.grants[-old % len(self.grants)]
            return grant if self.now < grant.expires_at else None
        return self.allocate(user, data)

    def ask(self, grant: Grant, chats: Accessors, ref_id: bytes, lives_s: int):
        expires_at = lives_s and self.now + lives_s
        request = m.PushChunk(b"-", 0, chats, ref_id, expires_at=expires_at)
        return ask_for(grant.user, grant, request, self.now)

    @rule(
        user=st.sampled_from(USERS),
        data=st.sampled_from(DATA),
        old=st.sampled_from([0] * 9 + [1, 2, 5]),
        chats=st.sampled_from([(), CHATS[:1], CHATS[1:2], CHATS[:2], CHATS[1:]]),
        ref_id=st.sampled_from(REF_IDS),
        lives_s=st.sampled_from([0, 0, 60, 150]),
        altered=st.integers(0, 9),
        indexes=st.permutations([0, 1, 2]),
        count=st.sampled_from([1, 2, 3, 3, 3]),
        spoil=st.integers(0, 19),
    )
    def push(  # noqa: PLR0917
        self, user, data, old, chats, ref_id, lives_s, altered, indexes, count, spoil
    ) -> None:
        grant = self.some_grant(user, data, old)
        if grant is None:
            return
        ask = self.ask(grant, chats, ref_id, lives_s)
        said = self.said.setdefault(grant.grant_id, ask.upload)
        if altered:
            ask = replace(ask, upload=replace(said, end=grant.expires_at))
        chunks = pieces(next(data for data in DATA if blob_of(data) == grant.blob_id))
        for index in [index for index in indexes if index < len(chunks)][:count]:
            body = chunks[index]
            if spoil == 0 and body:
                body = bytes([body[0] ^ 1]) + body[1:]
            self.push_chunk(ask, index, body)

    def push_chunk(self, ask, index: int, body: bytes) -> None:
        upload = ask.upload
        if count_chunks(upload) == 1:
            digest = blake3(body).digest()
            pushed = Pushed(index, body, digest[:16], verified=digest == upload.blob_id)
            answer = self.decide(lambda draft: accept_whole(draft, RULES, ask, pushed, ROOM))
            self.completed(answer, upload)
            return
        pushed = Pushed(index, body, blake3(body).digest()[:16])
        answer = self.decide(lambda draft: accept(draft, RULES, ask, pushed, ROOM))
        if isinstance(answer, Received):
            assert upload.grant_id not in self.model.dead
            assert upload.grant_id not in self.model.completed
            self.note()
            if answer.missing == 0:
                self.complete(answer.number, upload)
        else:
            self.completed(answer, upload)

    def complete(self, number: int, upload: Upload) -> None:
        hasher = blake3()
        for index in range(count_chunks(upload)):
            row = self.log.state.chunk(number, index)
            assert row is not None
            hasher.update(self.log.read(row.extent))
        verified = hasher.digest() == upload.blob_id
        answer = self.decide(
            lambda draft: finish(draft, RULES, upload, number, self.now, verified=verified)
        )
        self.completed(answer, upload)

    @rule(
        user=st.sampled_from(USERS),
        data=st.sampled_from(DATA),
        old=st.sampled_from([0] * 9 + [1, 2, 5]),
        source=st.sampled_from(CHATS),
        chats=st.sampled_from([CHATS[:1], CHATS[2:3], CHATS[3:], ()]),
        own=st.booleans(),
    )
    def forward(self, user, data, old, source: Principal, chats: Accessors, own) -> None:
        grant = self.some_grant(user, data, old)
        if grant is None:
            return
        ask = self.ask(grant, chats, b"fwd", 0)
        access = self.access(grant.user, grant.user if own else source, grant.blob_id, own=own)
        allowed = self.may_read(grant.user, None if own else source, grant.blob_id)
        answer = self.decide(lambda draft: forward(draft, RULES, ask, access))
        if isinstance(answer, m.PushResult) and grant.grant_id not in self.model.completed:
            assert allowed
        self.completed(answer, ask.upload)

    def access(self, caller: Principal, accessor: Principal, blob_id: BlobId, *, own: bool):
        token = AccessToken(
            accessor=accessor,
            cluster=CLUSTER,
            caller=caller,
            scope=Scope.READ,
            issued_at=self.now,
            expires_at=self.now + 60,
            cti=bytes(16),
        )
        return Access(caller, accessor, blob_id, None if own else token)

    def may_read(self, caller: Principal, chat: Principal | None, blob_id: BlobId) -> bool:
        """Through a chat, or (None) as the owner, by what the bucket knows of registrations."""
        known = self.log.state.uids(caller)
        return any(
            name.blob_id == blob_id
            and (name.uid in known if chat is None else name.accessor == chat)
            for name in self.model.standing(self.now)
        )

    @precondition(lambda self: self.model.references)
    @rule(which=st.integers(0, 30), by_token=st.booleans(), cti=st.integers(0, 3))
    def remove(self, which: int, by_token: bool, cti: int) -> None:
        names = sorted(self.model.references)
        name = names[which % len(names)]
        reference = m.ReferenceKey(name.blob_id, name.uid, name.accessor, name.ref_id)
        owner = next((user for user, uid in self.uids.items() if uid == name.uid), ALICE.principal)
        token = AccessToken(
            accessor=name.accessor,
            cluster=CLUSTER,
            caller=owner,
            scope=Scope.REF_DEL,
            issued_at=self.now,
            expires_at=self.now + 60,
            cti=bytes([cti]) * 16,
            blob=name.blob_id,
            owner=name.uid,
            ref_id=name.ref_id,
        )
        shown = token if by_token and name.accessor != NULL_ACCESSOR else None
        stood = self.model.stands(name, self.now)
        row = self.log.state.reference(name)

        def removal(draft) -> str:
            try:
                remove(draft, RULES, reference, owner, shown, self.now)
            except OstError as error:
                return error.code
            return ""

        code = self.decide(removal)
        assert code in {"", "not_found", "token_invalid"}
        gone = self.log.state.reference(name) is None
        if code == "" and gone and row is not None:
            assert stood
        if gone:
            self.model.references.pop(name, None)
        if shown is None and name.uid in self.uids.values():
            assert (code == "") is stood
            assert gone
        self.note()

    @rule(user=st.sampled_from(USERS), data=st.sampled_from(DATA))
    def cancel(self, user, data: bytes) -> None:
        before = self.open_grants()
        self.decide(lambda draft: cancel(draft, user.principal, blob_of(data)))
        self.model.dead |= before - self.open_grants()
        self.note()

    def open_grants(self) -> set[GrantId]:
        return {upload.grant_id for _, upload in self.log.state.uploads(0, 1000)}

    # --- what the index does ----------------------------------------------------------------

    @rule(chat=st.sampled_from(CHATS[:2]), really=st.integers(0, 3))
    def delete_chat(self, chat: Principal, really: int) -> None:
        if really:
            return
        self.index.tell(e.AccessorDeleted(chat))

    @rule(user=st.sampled_from(USERS), really=st.integers(0, 3))
    def delete_and_register_again(self, user, really: int) -> None:
        if really:
            return
        self.version += 1
        old, self.version = self.uids[user.principal], self.version + 1
        new = Uid(old[:7] + bytes([self.version % 256]))
        if new == old:
            return
        self.uids[user.principal] = new
        deleted = e.UserChanged(old, user.principal, self.version, 0, deleted=True)
        self.index.tell(deleted, e.UserChanged(new, user.principal, self.version, 0))

    @precondition(lambda self: self.index.grants)
    @rule(which=st.integers(0, 9), really=st.integers(0, 2))
    def revoke(self, which: int, really: int) -> None:
        if really:
            return
        grant_id = sorted(self.index.grants)[which % len(self.index.grants)]
        opened = self.index.grants[grant_id]
        self.revoking.add(grant_id)
        self.index.tell(e.GrantRevoked(grant_id, opened.uid, opened.blob_id, opened.end))

    @rule(count=st.integers(1, 4), again=st.booleans())
    def hear_the_feed(self, count: int, again: bool) -> None:
        _, seq = self.log.state.feed_cursor()
        start = max(0, seq - 2) if again else seq
        events = [decode_event(data, e.FeedEvent) for data in self.index.feed[start:][:count]]
        cursor = FeedCursor(self.index.incarnation, max(seq, start + len(events)))
        self.decide(lambda draft: apply_feed(draft, events, cursor))
        for event in events:
            match event:
                case e.AccessorDeleted(accessor=accessor):
                    self.model.burned.add(accessor)
                case e.UserChanged(deleted=True, uid=uid):
                    self.model.deleted.add(uid)
                case e.GrantRevoked(grant_id=grant_id):
                    if grant_id not in self.model.completed:
                        self.model.dead.add(grant_id)
        self.note()

    @rule()
    def raise_floor(self) -> None:
        self.decide(lambda draft: raise_floor(draft, self.now))
        self.note()

    @rule(lost=st.booleans(), limit=st.sampled_from([1, 3, 500]))
    def send_the_outbox(self, lost: bool, limit: int) -> None:
        self.sync()
        view = self.log.state
        events = tuple(data for _, data in view.outbox(limit))
        first = view.number(t.OUTBOX_ACKED) + 1
        request = m.SyncBucket(NOW * 1_000_000, first, events, m.Space(9, 9, 0), "")
        result = self.index.take(request)
        if not lost:
            through = first + len(events) - 1
            self.decide(lambda draft: acknowledge(draft, through, result))
            self.note()

    # --- time and accidents -----------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 30, 120]))
    def tick(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.decide(lambda draft: sweep_slice(draft, self.now))
        self.note()

    @rule(stalled=st.booleans())
    def expire_uploads(self, stalled: bool) -> None:
        for number, _ in self.log.state.uploads(0, 1000):
            before = self.open_grants()
            self.decide(lambda draft, n=number: expire_upload(draft, n, stalled=stalled))
            self.model.dead |= before - self.open_grants()
            self.note()

    @rule()
    def sync(self) -> None:
        self.log.sync()

    @rule(kept=st.integers(0, 5), really=st.integers(0, 2))
    def crash(self, kept: int, really: int) -> None:
        if really:
            return
        self.log.crash(kept)
        del self.history[len(self.log.groups) + 1 :]
        self.model = copy.deepcopy(self.history[-1])

    @rule()
    def settle(self) -> None:
        """Drain feed, sweeps and outbox; then both sides must agree exactly."""
        self.hear_the_feed(1000, again=False)
        more = True
        while more:
            more = bool(self.decide(lambda draft: sweep_slice(draft, self.now)))
            self.note()
        self.send_the_outbox(lost=False, limit=500)
        standing = self.model.standing(self.now)
        held = {(name.uid, name.blob_id) for name in standing}
        assert set(self.index.charges) == held
        view = self.log.state
        kept = [t.ReferenceId.unpack(row)[0] for _, row in self.log.rows.scan(t.REFERENCES)]
        assert set(kept) == standing
        assert len(kept) == len(standing)
        for way in (t.BLOB_REFERENCES, t.USER_REFERENCES, t.ACCESSOR_REFERENCES):
            assert len(list(self.log.rows.scan(way))) == len(standing)
        pinned = {BlobId(k[1:33]) for k, _ in self.log.rows.scan(t.PINS)}
        blobs = {BlobId(k[1:]) for k, _ in self.log.rows.scan(t.BLOBS)}
        assert blobs == {name.blob_id for name in standing} | pinned
        live = {view.blob(blob_id).number for blob_id in blobs}
        live |= {number for number, _ in view.uploads(0, 1000)}
        assert {t.chunk_place(k)[0] for k, _ in self.log.rows.scan(t.CHUNKS)} <= live
        assert not list(self.log.rows.scan(t.OUTBOX))
        assert not list(self.log.rows.scan(t.SWEEPS))

    # --- what always holds ------------------------------------------------------------------

    @invariant()
    def reads_follow_the_model(self) -> None:
        standing = self.model.standing(self.now)
        for data in DATA:
            blob_id = blob_of(data)
            for chat in CHATS:
                expected = any(n.blob_id == blob_id and n.accessor == chat for n in standing)
                assert self.can_read(BOB.principal, chat, blob_id, own=False) is expected
            for user in self.uids:
                known = self.log.state.uids(user)
                expected = any(n.blob_id == blob_id and n.uid in known for n in standing)
                assert self.can_read(user, user, blob_id, own=True) is expected

    def can_read(self, caller, accessor, blob_id: BlobId, *, own: bool) -> bool:
        access = self.access(caller, accessor, blob_id, own=own)
        try:
            readable = find_readable(self.log.state, access, self.now)
        except NotFoundError:
            return False
        view, blob = self.log.state, readable.blob
        rows = [view.chunk(blob.number, i) for i in range(max(1, -(-blob.size // CHUNK_BYTES)))]
        assert blob_of(b"".join(self.log.read(row.extent) for row in rows)) == blob_id
        return True

    @invariant()
    def the_index_never_accounts_for_less_than_is_held(self) -> None:
        for uid in self.uids.values():
            held = {name.blob_id for name in self.log.state.references_of(uid)}
            size = sum(self.log.state.blob(blob_id).size for blob_id in held)
            assert size <= self.index.used(uid) + self.index.reserved(uid)

    @invariant()
    def promised_room_is_what_open_uploads_lack(self) -> None:
        view = self.log.state
        lacking = sum(
            upload.size - view.progress(number).length for number, upload in view.uploads(0, 1000)
        )
        assert view.number(t.PROMISED) == lacking


TestBucketMachine = BucketMachine.TestCase
TestBucketMachine.settings = settings(stateful_step_count=40)

"""What a statement is good for: every role, call and statement, through links and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from ostnode.errors import OstError
from ostnode.identity.sessions import Login, Session, mint_login, mint_session
from ostnode.identity.tokens import Scope
from ostnode.ids import BlobId, ClusterId
from ostnode.wire import messages as m
from ostnode.wire.calls import CALLS, Kind
from ostnode.wire.fields import Request
from tests.support.cluster import Cluster
from tests.support.httpway import an_http_cluster
from tests.support.people import Chat, Person

OTHER = BlobId(b"o" * 32)
_serial = count()

READING = {"read", "read, of this blob"}
ANY_STATEMENT = {
    "nothing",
    "garbage",
    "read",
    "read, of this blob",
    "read, of another blob",
    "read, for another caller",
    "read, of another chat",
    "read, of another cluster",
    "read, expired",
    "read, of tomorrow",
    "ref.del, of this reference",
    "ref.del, of another reference",
    "ref.del, for another caller",
    "acc.del",
    "acc.del, for another caller",
    "acc.del, of another chat",
    "a grant",
    "a grant of another",
    "a login",
    "a session",
}
ROLES = ("user", "owner", "stranger", "app", "operator")

# What each call takes of a statement, by who shows it. Calls of the registry that take none are
# named in `TAKES_NONE`, so that a new one must be put on one side or the other.
TAKES: dict[str, dict[str, set[str]]] = {
    "locate": dict.fromkeys(ROLES, READING),
    "blob_info": dict.fromkeys(ROLES, READING),
    "read_blob": dict.fromkeys(ROLES, READING),
    # Forwarding is for users: the grant names one, and the statement is the proof of access.
    "add_blob_reference": {"user": READING, "owner": READING},
    # The owner needs none; what it shows all the same must be good.
    "remove_blob_reference": {
        **{role: {"ref.del, of this reference"} for role in ROLES},
        "owner": {"nothing", "ref.del, of this reference"},
    },
    # An app deletes what it likes; everybody else must be a user whom the chat allows it.
    "delete_accessor": {"user": {"acc.del"}, "owner": {"acc.del"}, "app": ANY_STATEMENT},
    "push_chunk": {"user": {"a grant"}, "owner": {"a grant"}},
}
TAKES_NONE = {
    "change_users", "user", "change_user_principal", "block_principal", "allocated_bucket",
    "release_grant", "can_forward", "sync_bucket", "feed", "cluster_status", "upload_status",
    "cancel_upload", "maintenance_status", "compact_bucket", "pause_maintenance", "start_scrub",
    "forget_findings", "invite_bucket", "list_members", "approve_bucket", "revoke_bucket",
    "withdraw_invite", "compare", "start_check", "check_progress", "list_findings",
    "forget_bucket", "list_rejected", "dismiss_rejected",
    "set_bucket_state", "fleet_status", "block_blob", "list_blocked",
    # Theirs are not of a chat: a join token's secret, and statements of keys.
    "join", "roster", "change_bucket_key",
}  # fmt: skip
HIDDEN = {"locate", "blob_info", "read_blob"}
"""Calls whose refusals never tell why."""
REFUSALS = {"token_invalid", "token_expired", "grant_invalid", "user_unknown", "not_found"}


@dataclass
class Scene:
    """A blob of alice's in a chat of its own; made anew once something has become of it."""

    cluster: Cluster
    chat: Chat = field(init=False)
    made: m.BlobReference = field(init=False)
    data: bytes = b""

    async def renew(self) -> None:
        number = next(_serial)
        self.data = b"scene %d" % number
        self.chat = Chat(f"chat {number}", self.cluster.clock)
        self.made = await self.cluster.alice.upload(self.data, self.chat, ref_id=b"ref")

    def person(self, role: str) -> Person:
        return {
            "user": self.cluster.bob,
            "owner": self.cluster.alice,
            "stranger": self.cluster.stranger,
            "app": self.cluster.app,
            "operator": self.cluster.operator,
        }[role]

    def statements(self, who: Person, grants: dict[Person, m.Allocation]) -> Iterator[tuple]:
        """Every sort of statement, made for `who` unless its name says otherwise."""
        chat, made, now = self.chat, self.made, int(self.cluster.clock.now())
        carol, node = self.cluster.carol, self.cluster.node(made.bucket).key
        other_chat = self.cluster.random
        yield "nothing", b""
        yield "garbage", b"no statement"
        yield "read", chat.token(who)
        yield "read, of this blob", chat.token(who, blob=made.blob_id)
        yield "read, of another blob", chat.token(who, blob=OTHER)
        yield "read, for another caller", chat.token(carol)
        yield "read, of another chat", other_chat.token(who)
        yield "read, of another cluster", chat.token(who, cluster=ClusterId(bytes(16)))
        yield "read, expired", chat.token(who, issued_at=now - 900, expires_at=now - 300)
        yield "read, of tomorrow", chat.token(who, issued_at=now + 900, expires_at=now + 1000)
        yield "ref.del, of this reference", chat.deletion(who, made)
        yield "ref.del, of another reference", chat.deletion(who, made, ref_id=b"another")
        yield "ref.del, for another caller", chat.deletion(carol, made)
        yield "acc.del", chat.token(who, Scope.ACC_DEL)
        yield "acc.del, for another caller", chat.token(carol, Scope.ACC_DEL)
        yield "acc.del, of another chat", other_chat.token(who, Scope.ACC_DEL)
        mine = grants.get(who) or grants[carol]
        # Who is no user has no grant of its own to show.
        yield "a grant" if who in grants else "a grant of another", mine.grant
        yield (
            "a login",
            mint_login(who.key, Login(who.principal, node.principal, "", now, b"8" * 8)),
        )
        yield "a session", mint_session(node, Session(who.principal, node.principal, now + 60, ""))

    async def grants(self) -> dict[Person, m.Allocation]:
        """A grant for the blob for everybody who can have one."""
        return {
            person: await person.allocate(self.data)
            for person in (self.cluster.alice, self.cluster.bob, self.cluster.carol)
        }

    def request(self, call: str, statement: bytes, grant: bytes) -> tuple[Request, bytes]:
        """The call's request and body, showing the statement."""
        chat, blob_id = self.chat.principal, self.made.blob_id
        key = self.chat.named_in(self.made, token=statement)
        return {
            "locate": (m.Locate(chat, blob_id, statement), b""),
            "blob_info": (m.BlobInfoRequest(chat, blob_id, statement), b""),
            "read_blob": (m.ReadBlob(chat, blob_id, 0, 100, statement), b""),
            "add_blob_reference": (m.AddReference(grant, chat, statement, ()), b""),
            "remove_blob_reference": (m.RemoveReferences((key,)), b""),
            "delete_accessor": (m.DeleteAccessor(chat, statement), b""),
            "push_chunk": (m.PushChunk(statement or b"-", 0), self.data),
        }[call]


async def attempt(scene: Scene, who: Person, call: str, asked: tuple[Request, bytes]) -> str:
    """The code that it is refused with; empty when it is done."""
    role = next(spec.role for spec in CALLS if spec.name == call)
    cluster = scene.cluster
    node = cluster.index if role is Kind.INDEX else cluster.node(scene.made.bucket)
    try:
        reply = await who.call(node, *asked)
    except OstError as error:
        return error.code
    if isinstance(reply.message, m.BatchResult):
        return reply.message.results[0].code
    return ""


async def check(cluster: Cluster, call: str) -> None:
    """Every role shows the call every statement."""
    scene = Scene(cluster)
    for role in ROLES:
        await scene.renew()
        who, taken, names = scene.person(role), set(), set()
        grants = await scene.grants()
        for name, _ in list(scene.statements(who, grants)):
            # Anew, since the scene may have been: the same sort, for what there is now.
            statement = dict(scene.statements(who, grants))[name]
            grant = (grants.get(who) or grants[cluster.carol]).grant
            code = await attempt(scene, who, call, scene.request(call, statement, grant))
            names.add(name)
            if not code:
                taken.add(name)
                if call not in HIDDEN:
                    await scene.renew()
                    grants = await scene.grants()
                continue
            assert code in ({"not_found"} if call in HIDDEN else REFUSALS), (role, name, code)
        assert names <= ANY_STATEMENT
        assert taken == TAKES[call].get(role, set()) & names, (role, call)


def test_b49_every_call_takes_a_statement_or_takes_none() -> None:
    assert TAKES.keys().isdisjoint(TAKES_NONE)
    assert TAKES.keys() | TAKES_NONE == {spec.name for spec in CALLS}, "say what the new call takes"


@pytest.mark.parametrize("call", TAKES)
async def test_b49_what_a_statement_is_good_for_through_links(
    call: str, autojump_clock, cluster: Cluster
) -> None:
    await check(cluster, call)


@pytest.mark.slow
@pytest.mark.parametrize("call", TAKES)
async def test_b49_what_a_statement_is_good_for_over_http(call: str, tmp_path) -> None:
    async with an_http_cluster(tmp_path) as (cluster, _):
        await check(cluster, call)

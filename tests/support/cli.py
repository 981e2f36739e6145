"""Running the command line in this process, against a client that answers from a script."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ostnode.cli.app import run
from ostnode.client import ClientOptions, Downloaded, UploadedBlob
from ostnode.errors import NotFoundError, UnknownCallError
from ostnode.identity.keys import KeyPair
from ostnode.ids import BlobId, ClusterId, Principal, PrincipalKind, Uid
from ostnode.keyfiles import create_key_file
from ostnode.wire import accounts as ac
from ostnode.wire import checking as ck
from ostnode.wire import fleet as fl
from ostnode.wire import messages as m
from ostnode.wire.status import BucketStatus, ClusterInfo

INDEX = KeyPair.from_seed(b"index".ljust(32, b"."))
BUCKET = KeyPair.from_seed(b"bucket".ljust(32, b"."))
ADDRESS = m.BucketAddress(BUCKET.principal, "http://bucket.test")
UID = Uid(b"uid-uid-")
BLOB = BlobId(bytes(range(32)))


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        return json.loads(self.err)["error"]


@dataclass
class ScriptedClient:
    """Notes each call as (name, arguments); raises `failure` from all of them if there is one."""

    calls: list[tuple] = field(default_factory=list)
    failure: BaseException | None = None
    old_index: bool = False
    checks: list[ck.CheckProgress] = field(
        default_factory=lambda: [ck.CheckProgress(0, True, False, 0, 0)] * 9
    )
    findings: list[ck.FindingPage] = field(default_factory=list)
    forgotten: list[ck.Forgotten] = field(default_factory=list)
    blocked_blobs: int = 0
    """How many there are; the first is number 1."""

    def note(self, *call: object) -> None:
        self.calls.append(call)
        if self.failure:
            raise self.failure

    async def register_user(self, principal: Principal, limit: int, *, on_full: str) -> None:
        self.note("register_user", principal, limit, on_full)

    async def block_blob(self, blob_id: BlobId, *, blocked: bool) -> None:
        self.note("block_blob", blob_id, blocked)

    async def list_blocked(self, after: BlobId | None = None) -> ac.BlockedPage:
        self.note("list_blocked", after)
        first = 0 if after is None else int.from_bytes(after, "big")
        numbers = range(first + 1, min(first + ac.BLOCKED_TOLD_MAX, self.blocked_blobs) + 1)
        return ac.BlockedPage(tuple(BlobId(each.to_bytes(32, "big")) for each in numbers))

    async def delete_user(self, principal: Principal) -> None:
        self.note("delete_user", principal)

    async def block_principal(self, principal: Principal, *, blocked: bool) -> None:
        self.note("block_principal", principal, blocked)

    async def change_user_principal(self, old: Principal, new: Principal) -> None:
        self.note("change_user_principal", old, new)

    async def user(self, principal: Principal | None = None) -> m.UserInfo:
        self.note("user", principal)
        allowance = m.Allowance(1 << 20, 2048, 7)
        return m.UserInfo(principal or INDEX.principal, UID, allowance, "refuse", blocked=False)

    async def delete_accessor(self, accessor: Principal, *, token: bytes = b"") -> None:
        self.note("delete_accessor", accessor, token)

    async def cluster_status(self) -> ClusterInfo:
        self.note("cluster_status")
        bucket = BucketStatus(
            BUCKET.principal,
            "active",
            ADDRESS.http,
            incarnation=1,
            space=m.Space(100 << 30, 50 << 30, 1 << 20),
            last_seen=1_700_000_000,
            outbox_acked=5,
            feed_acked=7,
        )
        return ClusterInfo(
            ClusterId(bytes(16)), INDEX.principal, 1, 9, 2, 3, 0, 4096, 0, 0, (bucket,)
        )

    async def fleet_status(self, after: Principal | None = None) -> fl.FleetInfo:
        self.note("fleet_status", after)
        if self.old_index:
            raise NotFoundError
        bucket = fl.FleetBucket(
            BUCKET.principal,
            "lost",
            "active",
            ADDRESS.http,
            zone="rack 7",
            weight=2 << 30,
            space=m.Space(100 << 30, 50 << 30, 1 << 20),
            last_seen=1_700_000_000,
            feed_behind=2,
        )
        alert = "0 of 3 buckets are active, and no bucket stands by"
        return fl.FleetInfo(0, 3, 0, 1 << 30, 4, alert, (bucket,))

    async def set_bucket_state(self, bucket: Principal, state: str) -> str:
        self.note("set_bucket_state", bucket, state)
        return "lost"

    async def start_check(
        self, bucket: Principal | None = None, *, repair: bool = False
    ) -> ck.CheckProgress:
        self.note("start_check", bucket, repair)
        return self.checks.pop(0)

    async def check_progress(self, run: int = 0) -> ck.CheckProgress:
        if self.old_index:
            raise UnknownCallError
        self.note("check_progress", run)
        return self.checks.pop(0)

    async def list_findings(
        self, bucket: Principal | None = None, *, after: bytes = b""
    ) -> ck.FindingPage:
        self.note("list_findings", bucket, after)
        return self.findings.pop(0)

    async def forget_bucket(self, bucket: Principal, *, after: bytes = b"") -> ck.Forgotten:
        self.note("forget_bucket", bucket, after)
        return self.forgotten.pop(0)

    async def list_rejected(
        self, bucket: Principal | None = None, *, seq: int = 0
    ) -> ck.RejectedPage:
        self.note("list_rejected", bucket, seq)
        event = ck.SetAside(BUCKET.principal, seq + 1, "no such grant", b"\x0a", 1_700_000_000)
        return ck.RejectedPage((event,), more=seq == 0)

    async def dismiss_rejected(self, bucket: Principal, *, seq: int = 0) -> None:
        self.note("dismiss_rejected", bucket, seq)

    async def upload(self, source: Path, **options: object) -> UploadedBlob:
        self.note("upload", source, options)
        accessors = options["accessors"]
        made = m.BlobReference(BLOB, 3, BUCKET.principal, UID, accessors, options["ref_id"])
        return UploadedBlob(made, ADDRESS, chunks_sent=1, chunks_total=1)

    async def download(
        self, accessor: Principal, blob_id: BlobId, *, to: Path, **options: object
    ) -> Downloaded:
        self.note("download", accessor, blob_id, to, options)
        return Downloaded(to, 3, "text/plain", None)

    async def blob_info(self, accessor: Principal, blob_id: BlobId, **options: object):
        self.note("blob_info", accessor, blob_id, options)
        return m.BlobInfo(3, "text/plain", "a.txt", 1_700_000_000, 1)

    async def locate(self, accessor: Principal, blob_id: BlobId) -> m.BucketAddress:
        self.note("locate", accessor, blob_id)
        return ADDRESS

    async def delete_reference(self, bucket: m.BucketAddress, key: m.ReferenceKey) -> None:
        self.note("delete_reference", bucket, key)


class Cli:
    """`cli("blob", "put", …)` runs a command in a directory of its own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.client = ScriptedClient()
        self.connected: list[tuple[str, Principal, Principal]] = []
        self._capsys = capsys
        self.key = self.new_key("caller.key")

    def __call__(self, *arguments: object) -> Result:
        code = run([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def as_caller(self, *arguments: object) -> Result:
        """With --index and --key."""
        index = f"{INDEX.principal.text(PrincipalKind.INDEX)}@http://index.test:7100"
        options = ("--index", index, "--key", self.root / "caller.key")
        return self(*arguments, *options)

    def new_key(self, name: str) -> KeyPair:
        return KeyPair.from_seed(create_key_file(self.root / name))

    @asynccontextmanager
    async def connect(
        self, url: str, key: KeyPair, *, index: Principal, options: ClientOptions
    ) -> AsyncIterator[ScriptedClient]:
        self.connected.append((url, key.principal, index))
        yield self.client


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    for variable in ("OST_INDEX", "OST_KEY", "OST_CLUSTER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    made = Cli(tmp_path, capsys)
    monkeypatch.setattr("ostnode.cli.target.connect", made.connect)
    return made


def usr(key: KeyPair) -> str:
    return key.principal.text(PrincipalKind.USER)


def acc(key: KeyPair) -> str:
    return key.principal.text(PrincipalKind.ACCESSOR)

"""The client for programs without Trio: the same names but `stream`, each call waits.

Trio runs in one background thread; calls may come from any other thread, several at once.

    with blocking.connect("http://127.0.0.1:7100", key, index=index) as client:
        blob = client.upload(Path("cat.png"), accessors=[chat])
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Concatenate, Final, Generic, ParamSpec, TypeVar

import trio
from typing_extensions import override

from ostnode.client import client as trio_client
from ostnode.client.allocating import UploadedBlob
from ostnode.client.errors import ClientError
from ostnode.client.http import Transport
from ostnode.client.options import ClientOptions, Observer, ignore_attempt
from ostnode.client.progress import ProgressCallback, ignore_progress
from ostnode.client.source import Source
from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal
from ostnode.wire.buffers import Buffer

P = ParamSpec("P")
T = TypeVar("T")

_DEFAULT_OPTIONS: Final = ClientOptions()


def _waiting(
    method: Callable[Concatenate[trio_client.Client, P], Awaitable[T]],
) -> Callable[Concatenate[Client, P], T]:
    """The method of the same name that waits."""

    @wraps(method)
    def wait(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.wait(partial(method, self.trio_client, *args, **kwargs))

    return wait


class Client:
    """`ostnode.client.Client` for callers that block. Made by `connect`."""

    def __init__(self, client: trio_client.Client, nursery: trio.Nursery) -> None:
        self.trio_client = client
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()

    @property
    def principal(self) -> Principal:
        """Who the nodes take this client for."""
        return self.trio_client.principal

    def upload(
        self,
        source: Path | Buffer | Iterable[bytes],
        *,
        accessors: Sequence[Principal] = (),
        ref_id: bytes = b"",
        content_type: str = "",
        filename: str | None = None,
        expires_at: int = 0,
        progress: ProgressCallback = ignore_progress,
    ) -> UploadedBlob:
        """As the Trio client's; a stream is an iterable. `progress` runs in the Trio thread."""
        if not isinstance(source, Path | bytes | bytearray | memoryview):
            stepped: Source = _Stepped(iter(source))
        else:
            stepped = source
        return self.wait(
            partial(
                self.trio_client.upload,
                stepped,
                accessors=accessors,
                ref_id=ref_id,
                content_type=content_type,
                filename=filename,
                expires_at=expires_at,
                progress=progress,
            )
        )

    forward = _waiting(trio_client.Client.forward)
    download = _waiting(trio_client.Client.download)
    read = _waiting(trio_client.Client.read)
    blob_info = _waiting(trio_client.Client.blob_info)
    delete_reference = _waiting(trio_client.Client.delete_reference)
    delete_references = _waiting(trio_client.Client.delete_references)
    upload_status = _waiting(trio_client.Client.upload_status)
    cancel_upload = _waiting(trio_client.Client.cancel_upload)
    maintenance_status = _waiting(trio_client.Client.maintenance_status)
    compact_bucket = _waiting(trio_client.Client.compact_bucket)
    pause_maintenance = _waiting(trio_client.Client.pause_maintenance)
    start_scrub = _waiting(trio_client.Client.start_scrub)
    forget_findings = _waiting(trio_client.Client.forget_findings)

    allowance = _waiting(trio_client.Client.allowance)
    user = _waiting(trio_client.Client.user)
    register_user = _waiting(trio_client.Client.register_user)
    delete_user = _waiting(trio_client.Client.delete_user)
    change_users = _waiting(trio_client.Client.change_users)
    change_user_principal = _waiting(trio_client.Client.change_user_principal)
    block_principal = _waiting(trio_client.Client.block_principal)
    block_blob = _waiting(trio_client.Client.block_blob)
    list_blocked = _waiting(trio_client.Client.list_blocked)
    allocated_bucket = _waiting(trio_client.Client.allocated_bucket)
    release_grant = _waiting(trio_client.Client.release_grant)
    can_forward = _waiting(trio_client.Client.can_forward)
    locate = _waiting(trio_client.Client.locate)
    delete_accessor = _waiting(trio_client.Client.delete_accessor)
    cluster_status = _waiting(trio_client.Client.cluster_status)
    fleet_status = _waiting(trio_client.Client.fleet_status)
    set_bucket_state = _waiting(trio_client.Client.set_bucket_state)
    invite_bucket = _waiting(trio_client.Client.invite_bucket)
    withdraw_invite = _waiting(trio_client.Client.withdraw_invite)
    list_members = _waiting(trio_client.Client.list_members)
    approve_bucket = _waiting(trio_client.Client.approve_bucket)
    revoke_bucket = _waiting(trio_client.Client.revoke_bucket)
    start_check = _waiting(trio_client.Client.start_check)
    check_progress = _waiting(trio_client.Client.check_progress)
    list_findings = _waiting(trio_client.Client.list_findings)
    forget_bucket = _waiting(trio_client.Client.forget_bucket)
    list_rejected = _waiting(trio_client.Client.list_rejected)
    dismiss_rejected = _waiting(trio_client.Client.dismiss_rejected)

    def wait(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function in the Trio thread and wait for its result.

        Ctrl-C in the waiting thread cancels it. Raises ClientError when the client is closed.
        """
        call = _Call(function)
        try:
            self.run_soon(partial(call.start, self._nursery))
            return call.result.result()
        except KeyboardInterrupt:
            self.run_soon(call.scope.cancel)
            raise

    def run_soon(self, function: Callable[[], None]) -> None:
        """Run a function in the Trio thread; raises ClientError when the client is closed."""
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            raise ClientError("the client is closed") from None


class _Call(Generic[T]):
    """One call on its way through the Trio thread. Its result is set whatever happens."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self.result: Future[T] = Future()
        self.scope = trio.CancelScope()
        self._function = function

    def start(self, nursery: trio.Nursery) -> None:
        """Start it; in the Trio thread."""
        try:
            nursery.start_soon(self._run)
        except RuntimeError:  # the nursery is closed
            self.result.set_exception(ClientError("the client is closed"))

    async def _run(self) -> None:
        try:
            with self.scope:
                self.result.set_result(await self._function())
        except Exception as error:  # noqa: BLE001  raised again in the thread that waits
            self.result.set_exception(error)
        finally:
            if not self.result.done():
                self.result.set_exception(ClientError("the client is closed"))


class _Stepped(AsyncIterator[bytes]):
    """A blocking iterator, stepped in a thread."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._limiter = trio.CapacityLimiter(1)

    @override
    async def __anext__(self) -> bytes:
        piece = await trio.to_thread.run_sync(next, self._pieces, None, limiter=self._limiter)
        if piece is None:
            raise StopAsyncIteration
        return piece


@contextmanager
def connect(
    index_url: str,
    key: KeyPair,
    *,
    index: Principal,
    options: ClientOptions = _DEFAULT_OPTIONS,
    observer: Observer = ignore_attempt,
    transport: Transport | None = None,
) -> Iterator[Client]:
    """A client of the cluster whose index is at `index_url`, for the block. See the Trio one."""
    ready: Future[Client] = Future()
    done = trio.Event()

    async def main() -> None:
        async with (
            trio_client.connect(
                index_url, key, index=index, options=options, observer=observer, transport=transport
            ) as client,
            trio.open_nursery() as nursery,
        ):
            ready.set_result(Client(client, nursery))
            await done.wait()
            nursery.cancel_scope.cancel()

    def run() -> None:
        try:
            trio.run(main)
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="ostnode client", daemon=True)
    thread.start()
    client = ready.result()
    try:
        yield client
    finally:
        client.run_soon(done.set)
        thread.join()

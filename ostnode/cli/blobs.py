"""`ostnode blob`: put, get, stat and remove blobs as a user; block them as an operator."""

from __future__ import annotations

import time
from collections.abc import Callable
from mimetypes import guess_type
from pathlib import Path
from typing import Final, TypeVar

import click

from ostnode.cli.output import Output, Value, json_option, pass_output, size_text, time_text
from ostnode.cli.parameters import ACCESSOR, BLOB_ID, PRINCIPAL, REF_ID, SECONDS, TOKEN, UID
from ostnode.cli.progress import transfer_progress
from ostnode.cli.target import BUCKET, PATIENT, Target, client_options
from ostnode.client import Client, Downloaded, UploadedBlob
from ostnode.ids import NULL_ACCESSOR, BlobId, Principal, PrincipalKind, Uid
from ostnode.wire.accounts import BLOCKED_TOLD_MAX
from ostnode.wire.jsonmap import to_json
from ostnode.wire.messages import BlobInfo, BucketAddress, ReferenceKey

F = TypeVar("F", bound=Callable[..., object])


@click.group()
def blob() -> None:
    """Put, get, stat and remove blobs; block them."""


def _reading(function: F) -> F:
    """The options that say through which chat, and with which token, a blob is read."""
    options: Final = [
        click.option("--accessor", type=PRINCIPAL, help="The chat [default: the caller itself]."),
        click.option("--token", type=TOKEN, default=b"", help="A read token of that chat."),
        click.option("--bucket", type=BUCKET, help="Where it is [default: ask the index]."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@blob.command("put")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--accessor", "accessors", type=ACCESSOR, multiple=True, help="A chat; repeatable.")
@click.option("--ref", type=REF_ID, default=b"", help="The message's id, up to 16 bytes in hex.")
@click.option("--type", "content_type", help="The media type [default: by the file's name].")
@click.option("--name", help="The file name readers see [default: the file's].")
@click.option("--expires-in", type=SECONDS, help="Forget the reference after this long.")
@json_option
@pass_output
@client_options
def put(
    target: Target,
    output: Output,
    *,
    file: Path,
    accessors: tuple[Principal, ...],
    ref: bytes,
    content_type: str | None,
    name: str | None,
    expires_in: int | None,
) -> None:
    """Upload FILE for the members of the chats named, or for nobody but oneself.

    Interrupted, the same command again sends only what is missing.
    """
    media_type = content_type or guess_type(file.name)[0] or ""

    async def call(client: Client) -> UploadedBlob:
        with transfer_progress(file.name, quiet=output.as_json) as progress:
            return await client.upload(
                file,
                accessors=accessors,
                ref_id=ref,
                content_type=media_type,
                filename=name or file.name,
                expires_at=0 if expires_in is None else int(time.time()) + expires_in,
                progress=progress,
            )

    uploaded = target.run(call, PATIENT)
    reference = uploaded.reference
    data: dict[str, Value] = {
        **to_json(reference),
        "ref_id": reference.ref_id.hex(),  # as --ref takes it
        "bucket": f"{uploaded.bucket.principal.text(PrincipalKind.BUCKET)}@{uploaded.bucket.http}",
        "chunks_sent": uploaded.chunks_sent,
        "chunks_total": uploaded.chunks_total,
    }
    if not output.as_json:
        data["size"] = size_text(reference.size)
    output.result(data)


@blob.command("get")
@click.argument("blob_id", type=BLOB_ID)
@_reading
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: ./BLOB_ID]")
@json_option
@pass_output
@client_options
def get(
    target: Target,
    output: Output,
    *,
    blob_id: BlobId,
    accessor: Principal | None,
    token: bytes,
    bucket: BucketAddress | None,
    out: Path | None,
) -> None:
    """Download a blob into a file; its bytes are checked against BLOB_ID before it appears."""
    path = out or Path(str(blob_id))

    async def call(client: Client) -> Downloaded:
        through = accessor or target.key.principal
        with transfer_progress(path.name, quiet=output.as_json) as progress:
            return await client.download(
                through, blob_id, to=path, token=token, bucket=bucket, progress=progress
            )

    done = target.run(call, PATIENT)
    output.result({
        "file": str(done.path),
        "size": done.size if output.as_json else size_text(done.size),
        "content_type": done.content_type,
        "filename": done.filename,
    })


@blob.command("stat")
@click.argument("blob_id", type=BLOB_ID)
@_reading
@json_option
@pass_output
@client_options
def stat(
    target: Target,
    output: Output,
    *,
    blob_id: BlobId,
    accessor: Principal | None,
    token: bytes,
    bucket: BucketAddress | None,
) -> None:
    """Print what a get of BLOB_ID would serve, and how many references the caller has to it."""

    async def call(client: Client) -> BlobInfo:
        through = accessor or target.key.principal
        return await client.blob_info(through, blob_id, token=token, bucket=bucket)

    info = target.run(call)
    data: dict[str, Value] = {"blob_id": str(blob_id), **to_json(info)}
    if not output.as_json:
        data |= {"size": size_text(info.size), "created_at": time_text(info.created_at)}
    output.result(data)


@blob.command("rm")
@click.argument("blob_id", type=BLOB_ID)
@click.option("--accessor", type=ACCESSOR, help="The chat [default: none, as put without one].")
@click.option("--ref", type=REF_ID, default=b"", help="The message's id, in hex.")
@click.option("--owner", type=UID, help="Whose reference it is [default: the caller's].")
@click.option("--token", type=TOKEN, default=b"", help="A ref.del token; an owner needs none.")
@click.option("--bucket", type=BUCKET, help="Where it is [default: ask the index, as its owner].")
@json_option
@pass_output
@client_options
def remove(
    target: Target,
    output: Output,
    *,
    blob_id: BlobId,
    accessor: Principal | None,
    ref: bytes,
    owner: Uid | None,
    token: bytes,
    bucket: BucketAddress | None,
) -> None:
    """Remove one reference to BLOB_ID; with the last one the blob goes and the bytes return."""
    through = accessor or NULL_ACCESSOR

    async def call(client: Client) -> None:
        uid = owner or (await client.user()).uid
        place = bucket or await client.locate(target.key.principal, blob_id)
        await client.delete_reference(place, ReferenceKey(blob_id, uid, through, ref, token))

    target.run(call)
    output.result({"removed": str(blob_id), "ref_id": ref.hex()})


@blob.command("block")
@click.argument("blob_id", type=BLOB_ID)
@json_option
@pass_output
@client_options
def block(target: Target, output: Output, blob_id: BlobId) -> None:
    """Have BLOB_ID refused everywhere, stored or not (operator); nothing is deleted."""
    _set_blocked(target, output, blob_id, blocked=True)


@blob.command("unblock")
@click.argument("blob_id", type=BLOB_ID)
@json_option
@pass_output
@client_options
def unblock(target: Target, output: Output, blob_id: BlobId) -> None:
    """Let BLOB_ID be read and uploaded again (operator)."""
    _set_blocked(target, output, blob_id, blocked=False)


def _set_blocked(target: Target, output: Output, blob_id: BlobId, *, blocked: bool) -> None:
    async def call(client: Client) -> None:
        await client.block_blob(blob_id, blocked=blocked)

    target.run(call)
    output.result({"blob_id": str(blob_id), "blocked": blocked})


@blob.command("blocked")
@json_option
@pass_output
@client_options
def list_blocked(target: Target, output: Output) -> None:
    """Print the blobs that are blocked (operator)."""

    async def call(client: Client) -> list[BlobId]:
        page = await client.list_blocked()
        found = [*page.blobs]
        while len(page.blobs) == BLOCKED_TOLD_MAX:
            page = await client.list_blocked(found[-1])
            found += page.blobs
        return found

    found = [str(blob_id) for blob_id in target.run(call)]
    output.result({"blobs": [*found]}, "\n".join(found) or "no blob is blocked")

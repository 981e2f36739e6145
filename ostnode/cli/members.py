"""`ostnode bucket invite, ls, approve, revoke`: who belongs to the cluster, for its operators."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
import trio

from ostnode.base64url import decode_base64url, encode_base64url
from ostnode.cli.failures import CommandError, ExitCode, exit_code_of
from ostnode.cli.output import Output, json_option, lines_of, pass_output, table, time_text
from ostnode.cli.parameters import BUCKET_PRINCIPAL, SECONDS, Parsed, parse_bucket_principal
from ostnode.cli.target import Target, client_options
from ostnode.client import Client
from ostnode.client.errors import UnreachableError
from ostnode.config import load_config
from ostnode.config.joining import INVITE_ID_BYTES, JoinToken
from ostnode.config.values import parse_address
from ostnode.errors import OstError
from ostnode.ids import Principal, PrincipalKind
from ostnode.node.rotation import rotate_bucket_key
from ostnode.node.seams import Seams
from ostnode.wire.jsonmap import to_json
from ostnode.wire.membership import (
    LABEL_CHARS_MAX,
    MEMBERS_TOLD_MAX,
    OVERLAP_S_MAX,
    Invitation,
    InviteInfo,
    MemberInfo,
    MemberPage,
)

_PREFIX: Final = f"{PrincipalKind.BUCKET}1"


def _parse_revoked(text: str) -> Principal | bytes:
    """A bucket's principal, or the id of an invite."""
    if text.startswith(_PREFIX):
        return parse_bucket_principal(text)
    invite_id = decode_base64url(text)
    if len(invite_id) != INVITE_ID_BYTES:
        raise ValueError("neither a bucket's principal nor an invite, as `bucket ls` prints them")
    return invite_id


_REVOKED: Final = Parsed("bucket or invite", _parse_revoked)
_ADDRESS: Final = Parsed("host:port", parse_address)


@click.command("invite")
@click.option(
    "--ttl", type=SECONDS, default="15m", show_default=True, help="How long the token is good."
)
@click.option("--auto-approve", is_flag=True, help="Its bearer needs no approval.")
@click.option("--label", default="", help="A name for people, shown by `bucket ls`.")
@click.option(
    "--address", type=_ADDRESS, help="Where buckets reach the index; default: as its config says."
)
@json_option
@pass_output
@client_options
def invite(
    target: Target,
    output: Output,
    *,
    ttl: int,
    auto_approve: bool,
    label: str,
    address: str | None,
) -> None:
    """Print a join token for one bucket: a single line, good once. Keep it secret.

    Put it into the bucket's config as `join`, or into OST_BUCKET_0_JOIN.
    """
    if len(label) > LABEL_CHARS_MAX:
        raise click.UsageError(f"a label has at most {LABEL_CHARS_MAX} characters")

    async def call(client: Client) -> Invitation:
        return await client.invite_bucket(ttl, auto_approve=auto_approve, label=label)

    made = target.run(call)
    if not (address or made.peer):
        raise CommandError(
            "the index does not know where buckets reach it",
            "pass --address HOST:PORT, or set public_peer in its config",
            ExitCode.USAGE,
        )
    token = JoinToken(made.index, address or made.peer, made.invite_id, made.secret)
    output.result(
        {
            "join": token.text(),
            "invite": encode_base64url(made.invite_id),
            "expires_at": made.expires_at,
            "auto_approve": auto_approve,
        },
        token.text(),
    )


@click.command("ls")
@json_option
@pass_output
@client_options
def ls(target: Target, output: Output) -> None:
    """Print every bucket of the cluster, pending and revoked ones too, and open invites."""
    first, members = target.run(_everybody)
    data = to_json(first)
    data["members"] = [to_json(member) for member in members]
    heads = ("bucket", "state", "address", "label", "since")
    texts = [lines_of({"roster": first.epoch}), table([heads, *map(_member_row, members)])]
    if first.invites:
        heads = ("invite", "ends", "approval", "label", "wrong")
        texts.append(table([heads, *map(_invite_row, first.invites)]))
    output.result(data, "\n\n".join(texts))


@click.command("approve")
@click.argument("bucket", type=BUCKET_PRINCIPAL)
@json_option
@pass_output
@client_options
def approve(target: Target, output: Output, bucket: Principal) -> None:
    """Let BUCKET work: a pending one, or one that was revoked."""

    async def call(client: Client) -> None:
        await client.approve_bucket(bucket)

    target.run(call)
    output.result({"approved": bucket.text(PrincipalKind.BUCKET)})


# One invite in 64 has a name that begins like an option.
@click.command("revoke", context_settings={"ignore_unknown_options": True})
@click.argument("bucket", type=_REVOKED)
@json_option
@pass_output
@client_options
def revoke(target: Target, output: Output, bucket: Principal | bytes) -> None:
    """Shut BUCKET out at once, or end an invite that nobody has used.

    A revoked bucket keeps its blobs; they are out of reach until it is approved again.
    """

    async def call(client: Client) -> None:
        if isinstance(bucket, Principal):
            await client.revoke_bucket(bucket)
        else:
            await client.withdraw_invite(bucket)

    target.run(call)
    if isinstance(bucket, Principal):
        output.result({"revoked": bucket.text(PrincipalKind.BUCKET)})
    else:
        output.result({"withdrawn": encode_base64url(bucket)})


@click.command("rotate-key")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--number", default=0, show_default=True, help="Which [[bucket]], counted from 0.")
@click.option(
    "--overlap",
    type=SECONDS,
    default="7d",
    show_default=True,
    help="How long the old key counts beside the new one.",
)
@json_option
@pass_output
def rotate_key(output: Output, config: Path, *, number: int, overlap: int) -> None:
    """Give the bucket of CONFIG a new key; run this where the bucket runs.

    The index is told, signed by both keys, and the key file is replaced. Restart the bucket within
    the overlap: until then it works on with the old key. Its name, which clients and grants know,
    stays. Cut off, the same command again goes on.
    """
    if overlap > OVERLAP_S_MAX:
        raise click.UsageError(f"an overlap is at most {OVERLAP_S_MAX // 86_400} days")
    loaded = load_config(config, os.environ)
    try:
        done = trio.run(rotate_bucket_key, loaded, number, overlap, Seams())
    except OstError as refusal:
        raise _rotation_refused(refusal) from None
    except UnreachableError as error:
        hint = f"is the index running? see bucket[{number}].index_peer, or the join line's address"
        raise CommandError(str(error), hint, ExitCode.UNREACHABLE, code="unreachable") from None
    output.result({
        "bucket": done.bucket.text(PrincipalKind.BUCKET),
        "key": done.key.text(PrincipalKind.BUCKET),
        "old_key_until": done.old_until if output.as_json else time_text(done.old_until),
    })


COMMANDS: Final = (invite, ls, approve, revoke, rotate_key)


_ROTATION_HINTS: Final = {
    "not_authorized": "`ostnode bucket ls --json` tells its state and its key: only an approved "
    "bucket changes its key; revoke it if somebody else has changed that",
    "invalid_argument": "do this again then; or revoke the bucket, if the key is in wrong hands",
    "unauthenticated": "another key answers there: did the bucket miss the index's change of keys?",
}


def _rotation_refused(refusal: OstError) -> CommandError:
    until = refusal.details.get("old_until")
    message = refusal.message
    if isinstance(until, int):
        message += f": the old key counts until {time_text(until)}"
    hint = _ROTATION_HINTS.get(refusal.code, "the same command goes on where this one stopped")
    return CommandError(message, hint, exit_code_of(refusal.code), code=refusal.code)


async def _everybody(client: Client) -> tuple[MemberPage, list[MemberInfo]]:
    """The first page, and the members of all."""
    first = page = await client.list_members()
    members = list(first.members)
    while len(page.members) == MEMBERS_TOLD_MAX:
        page = await client.list_members(after=page.members[-1].principal)
        members += page.members
    return first, members


def _member_row(member: MemberInfo) -> tuple[str, ...]:
    return (
        member.principal.text(PrincipalKind.BUCKET),
        member.state,
        member.http or "-",
        member.label or ("(config)" if member.configured else "-"),
        time_text(member.changed_at),
    )


def _invite_row(row: InviteInfo) -> tuple[str, ...]:
    return (
        encode_base64url(row.invite_id),
        time_text(row.expires_at),
        "automatic" if row.auto_approve else "by an operator",
        row.label or "-",
        str(row.failures),
    )

"""`ostnode user`: registrations and allowances. All but `show` of oneself are the app's."""

from __future__ import annotations

from typing import Final

import click

from ostnode.cli.output import Output, Value, json_option, pass_output, size_text
from ostnode.cli.parameters import SIZE, USER_PRINCIPAL
from ostnode.cli.target import Target, client_options
from ostnode.client import Client
from ostnode.errors import UserUnknownError
from ostnode.ids import Principal, PrincipalKind
from ostnode.wire.messages import UserInfo


@click.group()
def user() -> None:
    """Register, show, change and remove users."""


_ON_FULL: Final = click.Choice(["refuse", "evict_oldest"])


@user.command("add")
@click.argument("principal", type=USER_PRINCIPAL)
@click.option("--limit", type=SIZE, required=True, help="The byte allowance, like 10GiB.")
@click.option(
    "--on-full",
    type=_ON_FULL,
    default="refuse",
    show_default=True,
    help="Refuse uploads that do not fit, or drop the user's oldest blobs for them.",
)
@json_option
@pass_output
@client_options
def add(target: Target, output: Output, *, principal: Principal, limit: int, on_full: str) -> None:
    """Register PRINCIPAL with an allowance; one that is registered gets the new allowance."""

    async def call(client: Client) -> UserInfo:
        await client.register_user(principal, limit, on_full=on_full)
        return await client.user(principal)

    _print(output, target.run(call))


@user.command("show")
@click.argument("principal", type=USER_PRINCIPAL, required=False)
@json_option
@pass_output
@client_options
def show(target: Target, output: Output, principal: Principal | None) -> None:
    """Print the account of PRINCIPAL (app), or without it the caller's own."""

    async def call(client: Client) -> UserInfo:
        return await client.user(principal)

    _print(output, target.run(call))


@user.command("set")
@click.argument("principal", type=USER_PRINCIPAL)
@click.option("--limit", type=SIZE, help="The new allowance; lowered below use it deletes nothing.")
@click.option("--on-full", type=_ON_FULL, help="What a full allowance means from now on.")
@click.option("--move-to", type=USER_PRINCIPAL, help="The user that takes the registration over.")
@click.option("--block/--unblock", "blocked", default=None, help="Deny sessions and reads.")
@json_option
@pass_output
@client_options
def change(
    target: Target,
    output: Output,
    *,
    principal: Principal,
    limit: int | None,
    on_full: str | None,
    move_to: Principal | None,
    blocked: bool | None,
) -> None:
    """Change the allowance of PRINCIPAL, block it, or move its registration to a new key."""
    if limit is None and on_full is None and move_to is None and blocked is None:
        raise click.UsageError(
            "nothing to change: pass --limit, --on-full, --move-to, --block or --unblock"
        )

    only_blocked = limit is None and on_full is None and move_to is None

    async def call(client: Client) -> UserInfo | None:
        if blocked is not None:
            await client.block_principal(principal, blocked=blocked)
        if limit is not None or on_full is not None:
            known = await client.user(principal)  # registers nobody by accident
            await client.register_user(
                principal,
                known.allowance.limit if limit is None else limit,
                on_full=on_full or known.on_full,
            )
        if move_to is not None:
            await client.change_user_principal(principal, move_to)
        try:
            return await client.user(move_to or principal)
        except UserUnknownError:
            if only_blocked:  # readers need no registration, and are blocked all the same
                return None
            raise

    info = target.run(call)
    if info is None:
        text = principal.text(PrincipalKind.USER)
        output.result({"principal": text, "uid": None, "blocked": bool(blocked)})
    else:
        _print(output, info)


@user.command("rm")
@click.argument("principal", type=USER_PRINCIPAL)
@json_option
@pass_output
@client_options
def remove(target: Target, output: Output, principal: Principal) -> None:
    """End the registration of PRINCIPAL; its references go from every bucket."""

    async def call(client: Client) -> None:
        await client.delete_user(principal)

    target.run(call)
    output.result({"removed": principal.text(PrincipalKind.USER)})


def _print(output: Output, info: UserInfo) -> None:
    allowance = info.allowance
    data: dict[str, Value] = {
        "principal": info.principal.text(PrincipalKind.USER),
        "uid": str(info.uid),
        "limit": allowance.limit,
        "used": allowance.used,
        "reserved": allowance.reserved,
        "on_full": info.on_full,
        "blocked": info.blocked,
    }
    if not output.as_json:
        data |= {
            "limit": size_text(allowance.limit),
            "used": size_text(allowance.used),
            "reserved": size_text(allowance.reserved),
        }
    output.result(data)

"""Registrations: who has an allowance, and who is blocked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ostnode.errors import (
    InvalidArgumentError,
    NotAuthorizedError,
    OstError,
    UserExistsError,
    UserUnknownError,
)
from ostnode.ids import Principal, Uid
from ostnode.roles.index.core import chores, feed
from ostnode.roles.index.core.rows import Blocked, User
from ostnode.roles.index.core.rules import ON_FULL
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import messages as m


def require_user(tables: Tables, principal: Principal) -> User:
    """The caller's registration; raises NotAuthorizedError (blocked) or UserUnknownError."""
    if is_blocked(tables, principal):
        raise NotAuthorizedError("this principal is blocked")
    return _known(tables, principal)


def user_info(tables: Tables, principal: Principal) -> m.UserInfo:
    """A registration and its accounts; raises UserUnknownError."""
    user = _known(tables, principal)
    return m.UserInfo(
        principal=user.principal,
        uid=user.uid,
        allowance=m.Allowance(user.byte_limit, user.used, user.reserved),
        on_full=user.on_full,
        blocked=is_blocked(tables, principal),
    )


def change_users(
    tables: Tables, changes: tuple[m.UserChange, ...], new_uid: Callable[[], Uid]
) -> m.BatchResult:
    """Apply the changes in the order given; one that is refused leaves the others alone."""
    results = tuple(_try_change(tables, change, new_uid) for change in changes)
    chores.do_slice(tables)
    return m.BatchResult(results)


def change_principal(tables: Tables, old: Principal, new: Principal) -> None:
    """Move a registration; its grants, charges and references follow, as they name the uid.

    Raises UserUnknownError or UserExistsError.
    """
    user = _known(tables, old)
    if tables.live_user(new) not in {None, user}:
        raise UserExistsError("the new principal is registered already")
    tables.users.put(replace(user, principal=new, version=user.version + 1))
    feed.announce_user(tables, user.uid, urgent=True)


def set_blocked(tables: Tables, principal: Principal, *, blocked: bool) -> Blocked:
    """Block or unblock a principal, registered or not; how it stands now."""
    row = tables.blocked.get(principal) or Blocked(principal, blocked=False, version=0)
    if row.blocked != blocked:
        row = Blocked(principal, blocked, row.version + 1)
        tables.blocked.put(row)
        feed.announce_blocked(tables, principal)
    return row


def is_blocked(tables: Tables, principal: Principal) -> bool:
    """Whether the principal may get no session and no read."""
    row = tables.blocked.get(principal)
    return row is not None and row.blocked


def _known(tables: Tables, principal: Principal) -> User:
    user = tables.live_user(principal)
    if user is None:
        raise UserUnknownError("no user is registered under this principal")
    return user


def _try_change(tables: Tables, change: m.UserChange, new_uid: Callable[[], Uid]) -> m.ItemResult:
    try:
        with tables.alone():
            _change(tables, change, new_uid)
    except OstError as error:
        return m.ItemResult(error.code, error.message)
    return m.ItemResult()


def _change(tables: Tables, change: m.UserChange, new_uid: Callable[[], Uid]) -> None:
    user = tables.live_user(change.principal)
    if change.op == "delete":
        if user is not None:
            delete_uid(tables, user)
        return
    if change.op not in {"register", "update"}:
        raise InvalidArgumentError("op is register, update or delete")
    if change.on_full not in ON_FULL:
        raise InvalidArgumentError(f"on_full must be one of: {', '.join(ON_FULL)}")
    if user is not None:
        changed = replace(
            user,
            byte_limit=change.byte_limit,
            on_full=change.on_full,
            version=user.version + 1,
        )
    elif change.op == "register":
        uid = _unused(tables, new_uid)
        changed = User(uid, change.principal, change.byte_limit, change.on_full)
    else:
        raise UserUnknownError("no user is registered under this principal")
    tables.users.put(changed)
    feed.announce_user(tables, changed.uid, urgent=True)


def delete_uid(tables: Tables, user: User) -> None:
    """Free the principal at once; the uid's rows stay, uncounted, until its buckets end them."""
    tables.users.put(replace(user, deleted=True, version=user.version + 1))
    feed.announce_user(tables, user.uid, urgent=True)
    if user.grants:
        chores.revoke_user(tables, user.uid)


def _unused(tables: Tables, new_uid: Callable[[], Uid]) -> Uid:
    uid = new_uid()
    while tables.users.get(uid) is not None:
        uid = new_uid()
    return uid


def blocked_principals(tables: Tables) -> set[Principal]:
    """Everybody who may get no session and make no read."""
    return {row.principal for row in tables.blocked.where() if row.blocked}

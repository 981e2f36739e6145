"""The registry of calls, and who may make which."""

from __future__ import annotations

import itertools

import pytest

from ostnode.errors import NotAuthorizedError, UnauthenticatedError, UnknownCallError
from ostnode.ids import Principal
from ostnode.wire import calls, session
from ostnode.wire.calls import CALLS, NOBODY, Caller, Kind, authorise, call_by_number, call_of

ALICE = Principal(b"a" * 32)

# Written down apart from the registry: a row changed there must be changed here, on purpose.
ANYBODY = {
    "user",
    "allocated_bucket",
    "release_grant",
    "can_forward",
    "locate",
    "delete_accessor",
    "push_chunk",
    "upload_status",
    "cancel_upload",
    "add_blob_reference",
    "remove_blob_reference",
    "blob_info",
    "read_blob",
    "join",
    "change_bucket_key",
}
ALLOWED = {
    frozenset(): ANYBODY,
    frozenset({Kind.APP}): ANYBODY
    | {
        "change_users",
        "change_user_principal",
        "block_principal",
        "cluster_status",
        "fleet_status",
    },
    frozenset({Kind.OPERATOR}): ANYBODY
    | {
        "block_principal",
        "cluster_status",
        "maintenance_status",
        "compact_bucket",
        "pause_maintenance",
        "start_scrub",
        "forget_findings",
        "invite_bucket",
        "list_members",
        "approve_bucket",
        "revoke_bucket",
        "withdraw_invite",
        "start_check",
        "check_progress",
        "list_findings",
        "forget_bucket",
        "list_rejected",
        "dismiss_rejected",
        "set_bucket_state",
        "block_blob",
        "list_blocked",
        "fleet_status",
    },
    frozenset({Kind.BUCKET}): ANYBODY | {"sync_bucket", "feed", "roster", "compare"},
    frozenset({Kind.CANDIDATE}): ANYBODY | {"roster"},
    frozenset({Kind.INDEX}): ANYBODY,
}


@pytest.mark.parametrize(
    ("spec", "kinds"),
    list(itertools.product(CALLS, ALLOWED)),
    ids=lambda value: getattr(value, "name", None) or "-".join(sorted(value)) or "anybody",
)
def test_b49_every_call_and_kind_of_caller_as_the_table_says(spec, kinds):
    caller = Caller(ALICE, kinds)
    if spec.name in ALLOWED[kinds]:
        authorise(spec, caller)
    else:
        with pytest.raises(NotAuthorizedError):
            authorise(spec, caller)


@pytest.mark.parametrize("spec", CALLS, ids=lambda spec: spec.name)
def test_b49_nobody_may_call_anything(spec):
    with pytest.raises(UnauthenticatedError):
        authorise(spec, NOBODY)


def test_calls_are_found_by_number_and_by_request():
    for spec in CALLS:
        assert call_by_number(spec.number) is spec
        assert call_of(spec.request) is spec


@pytest.mark.parametrize("number", [0, -1, len(CALLS) + 1, 1 << 40])
def test_unknown_numbers_are_typed(number):
    with pytest.raises(UnknownCallError):
        call_by_number(number)


@pytest.mark.parametrize("rows", [CALLS[1:], (*CALLS, CALLS[0])], ids=["gap", "duplicate"])
def test_a_registry_with_a_gap_or_a_duplicate_does_not_load(monkeypatch, rows):
    monkeypatch.setattr(calls, "CALLS", rows)
    with pytest.raises(TypeError, match="gap or a duplicate"):
        calls._index_calls()


def test_the_deadline_takes_the_longest_poll():
    poll_ms_max = 60_000
    assert poll_ms_max < session.DEADLINE_MS_MAX

"""Joining and leaving in a whole cluster: invited, pending, approved, revoked, and the roster."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from ostnode.client.errors import UnreachableError
from ostnode.config import JoinToken
from ostnode.errors import (
    GrantInvalidError,
    InvalidArgumentError,
    NoBucketError,
    NotAuthorizedError,
    NotFoundError,
    OstError,
    TokenInvalidError,
)
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import mint_grant, open_grant
from ostnode.keyfiles import create_key_file, load_seed, successor_of
from ostnode.net.link import open_link
from ostnode.node import rotation
from ostnode.node.errors import StartError
from ostnode.node.memory import MembershipFile
from ostnode.node.rotation import rotate_bucket_key
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire.roster import open_roster
from tests.support.cluster import BucketNode, Cluster, Shape, insist
from tests.support.people import CLUSTER, Person, blob_of

ONE_BUCKET = pytest.mark.parametrize("shape", [Shape(buckets=1)])


async def invited(cluster: Cluster, **options: object) -> JoinToken:
    """A join token, as an operator hands it over."""
    made = await cluster.operator.ask(mb.InviteBucket(900, **options), mb.Invitation)
    return JoinToken(made.index, made.peer, made.invite_id, made.secret)


def new_bucket(cluster: Cluster, token: JoinToken | None, name: str = "newcomer") -> BucketNode:
    """A bucket whose config names no index; it is not started yet."""
    node = BucketNode(cluster, name)
    like = cluster.config.bucket[0]
    table = like.model_copy(
        update={
            "key_file": node.data_dir / "key",
            "data_dir": node.data_dir,
            "peer": node.address,
            "public_url": f"http://{name}.test",
            "index": None,
            "index_peer": "",
            "join": token,
        }
    )
    cluster.config = cluster.config.model_copy(update={"bucket": (*cluster.config.bucket, table)})
    cluster.buckets.append(node)
    return node


def change_table(cluster: Cluster, node: BucketNode, **keys: object) -> None:
    """Edit the node's config table for its next start."""
    tables = [
        table.model_copy(update=keys) if table.peer == node.address else table
        for table in cluster.config.bucket
    ]
    cluster.config = cluster.config.model_copy(update={"bucket": tuple(tables)})


async def members(cluster: Cluster) -> dict[str, str]:
    """States by principal."""
    page = await cluster.operator.ask(mb.ListMembers(), mb.MemberPage)
    return {member.principal.hex(): member.state for member in page.members}


async def state(cluster: Cluster, node: BucketNode) -> tuple[str | None, str | None]:
    """As a member, and as a bucket that takes blobs."""
    status = {each.principal: each.state for each in (await cluster.status()).buckets}
    return (await members(cluster)).get(node.key.principal.hex()), status.get(node.key.principal)


async def until_state(cluster: Cluster, node: BucketNode, *wanted: str | None) -> None:
    with trio.fail_after(60):
        while await insist(partial(state, cluster, node)) != wanted:  # noqa: ASYNC110
            await trio.sleep(0.1)


async def approve(cluster: Cluster, node: BucketNode) -> None:
    await cluster.operator.ask(mb.ApproveBucket(node.key.principal), m.Ok)


async def revoke(cluster: Cluster, node: BucketNode) -> None:
    await cluster.operator.ask(mb.RevokeBucket(node.key.principal), m.Ok)


async def refusal(person: Person, cluster: Cluster, token: JoinToken) -> type[OstError] | None:
    try:
        request = mb.Join(token.invite_id, token.secret)
        await person.call(cluster.index, request)
    except OstError as error:
        return type(error)
    return None


async def placed(cluster: Cluster, count: int = 12) -> set[str]:
    """Allocate some blobs; the names of the buckets they went to."""
    names = set()
    for number in range(count):
        data = b"%d at %f" % (number, trio.current_time())
        made = await cluster.alice.ask(m.Allocate(blob_of(data), len(data)), m.Allocation)
        names.add(cluster.node(made.bucket.principal).name)
    return names


@ONE_BUCKET
async def test_an_invited_bucket_works_once_it_is_approved(
    autojump_clock, cluster: Cluster
) -> None:
    newcomer = new_bucket(cluster, await invited(cluster))
    await newcomer.start()
    await until_state(cluster, newcomer, "pending", None)
    assert "pending" in newcomer.role.checks()["membership"]
    assert await placed(cluster) == {"bucket0"}
    await approve(cluster, newcomer)
    await until_state(cluster, newcomer, "approved", "active")
    assert set(newcomer.role.checks().values()) == {""}
    assert await placed(cluster) == {"bucket0", "newcomer"}
    await revoke(cluster, cluster.buckets[0])
    reference = await cluster.alice.upload(b"for the newcomer", cluster.general)
    assert reference.bucket == newcomer.key.principal


@ONE_BUCKET
async def test_a_token_may_bring_its_own_approval(autojump_clock, cluster: Cluster) -> None:
    newcomer = new_bucket(cluster, await invited(cluster, auto_approve=True, label="disk 7"))
    await newcomer.start()
    await until_state(cluster, newcomer, "approved", "active")
    page = await cluster.operator.ask(mb.ListMembers(), mb.MemberPage)
    assert {each.label for each in page.members} == {"", "disk 7"}
    assert page.invites == ()


@ONE_BUCKET
async def test_the_index_is_remembered_and_the_token_not_needed_again(
    autojump_clock, cluster: Cluster
) -> None:
    newcomer = new_bucket(cluster, await invited(cluster, auto_approve=True))
    await newcomer.start()
    await until_state(cluster, newcomer, "approved", "active")
    await newcomer.kill()
    path = newcomer.data_dir / "membership"
    assert path.stat().st_mode & 0o777 == 0o600
    change_table(cluster, newcomer, join=None)
    await newcomer.start()
    await cluster.until(lambda: set(newcomer.role.checks().values()) == {""})
    await cluster.settle()


@ONE_BUCKET
async def test_a_lost_answer_to_a_join_is_no_harm(autojump_clock, cluster: Cluster) -> None:
    cluster.index.gate.lose_replies(mb.Join)
    newcomer = new_bucket(cluster, await invited(cluster))
    await newcomer.start()
    await until_state(cluster, newcomer, "pending", None)
    await newcomer.crash()
    await approve(cluster, newcomer)
    await until_state(cluster, newcomer, "approved", "active")


async def test_used_foreign_guessed_and_old_tokens_are_refused_alike(
    autojump_clock, cluster: Cluster
) -> None:
    token = await invited(cluster)
    wrong = replace(token, secret=bytes(32))
    unknown = replace(token, invite_id=bytes(8))
    for bad in (wrong, unknown):
        assert await refusal(cluster.stranger, cluster, bad) is TokenInvalidError
    assert await refusal(cluster.stranger, cluster, token) is None
    assert await refusal(cluster.bob, cluster, token) is TokenInvalidError  # used
    assert await refusal(cluster.stranger, cluster, token) is None  # a lost answer
    late = await invited(cluster)
    cluster.clock.ahead_s = 901
    assert await refusal(cluster.bob, cluster, late) is TokenInvalidError
    withdrawn = await invited(cluster)
    await cluster.operator.ask(mb.WithdrawInvite(withdrawn.invite_id), m.Ok)
    assert await refusal(cluster.bob, cluster, withdrawn) is TokenInvalidError


async def test_a_token_that_is_guessed_at_dies(autojump_clock, cluster: Cluster) -> None:
    token = await invited(cluster)
    for number in range(1, 6):
        guess = replace(token, secret=bytes([number]) * 32)
        assert await refusal(cluster.stranger, cluster, guess) is TokenInvalidError
    assert await refusal(cluster.bob, cluster, token) is TokenInvalidError


async def test_a_revoked_bucket_is_shut_out_at_once(autojump_clock, cluster: Cluster) -> None:
    kept = await cluster.alice.upload(b"kept", cluster.general)
    revoked = cluster.node(kept.bucket)
    other = next(node for node in cluster.buckets if node is not revoked)
    before = trio.current_time()
    await revoke(cluster, revoked)
    assert await state(cluster, revoked) == ("revoked", "revoked")
    await cluster.until(lambda: revoked.role.checks()["index"] != "")
    assert trio.current_time() - before < 2
    assert await placed(cluster) == {other.name}
    with pytest.raises(NoBucketError, match="revoked by an operator"):
        await cluster.bob.ask(m.Allocate(blob_of(b"kept"), 4), m.Allocation)
    with pytest.raises(NotAuthorizedError):
        async with cluster.dial(cluster.index, revoked.key) as link:
            await link.call(m.Feed(0, 0, 0))
    # Coming back by itself, with a token, after a restart of either: no way.
    token = await invited(cluster, auto_approve=True)
    thief = Person("thief", cluster)
    thief.key, thief.principal = revoked.key, revoked.key.principal
    assert await refusal(thief, cluster, token) is NotAuthorizedError
    await cluster.index.stop()
    await cluster.index.start()
    assert await state(cluster, revoked) == ("revoked", "revoked")
    await approve(cluster, revoked)
    await until_state(cluster, revoked, "approved", "active")
    await cluster.settle()
    await cluster.bob.ask(m.Allocate(blob_of(b"kept"), 4), m.Allocation)


async def test_the_link_of_a_revoked_bucket_ends_though_it_keeps_quiet(
    autojump_clock, cluster: Cluster
) -> None:
    quiet = cluster.buckets[0]
    await quiet.kill()
    async with cluster.dial(cluster.index, quiet.key) as link:
        await link.call(mb.GetRoster(0, 0))
        async with cluster.dial(cluster.index, cluster.buckets[1].key) as other:
            await other.call(mb.GetRoster(0, 0))
            await revoke(cluster, quiet)
            with trio.fail_after(3):
                await link.wait_closed()
            await other.call(mb.GetRoster(0, 0))


async def test_a_pending_bucket_that_is_revoked_is_forgotten(
    autojump_clock, cluster: Cluster
) -> None:
    token = await invited(cluster)
    newcomer = new_bucket(cluster, token)
    await newcomer.start()
    await until_state(cluster, newcomer, "pending", None)
    await revoke(cluster, newcomer)
    assert await state(cluster, newcomer) == (None, None)
    with pytest.raises(NotFoundError):
        await approve(cluster, newcomer)


async def test_buckets_follow_the_roster(autojump_clock, cluster: Cluster) -> None:
    first, second = cluster.buckets
    await cluster.settle()
    # Addresses are told with the next look; they change nothing of importance.
    await trio.sleep(61)
    epochs = {node.role.roster_epoch() for node in cluster.buckets}
    assert epochs == {cluster.index.role.roster_epoch()}
    await revoke(cluster, second)
    await cluster.until(lambda: first.role.roster_epoch() > max(epochs))
    remembered = MembershipFile(first.data_dir).load()
    roster = open_roster(remembered.roster, cluster=CLUSTER, signers=[cluster.index.key.principal])
    assert [each.principal for each in roster.buckets] == [first.key.principal]
    assert roster.buckets[0].http == "http://bucket0.test:80"


async def test_both_sides_say_which_roster_they_know(
    autojump_clock, cluster: Cluster, monkeypatch
) -> None:
    said: list[int] = []

    def listen(*arguments: object, **options: object):
        said.append(options["roster_epoch"])
        return open_link(*arguments, **options)

    await trio.sleep(61)
    monkeypatch.setattr("ostnode.node.bucket.open_link", listen)
    await cluster.buckets[0].crash()
    await cluster.settle()
    epoch = cluster.index.role.roster_epoch()
    assert said == [epoch]
    assert epoch > 0
    async with cluster.dial(cluster.index, cluster.stranger.key) as link:
        assert link._session.connection._handshake.peer.roster_epoch == epoch


async def test_b59_an_older_roster_is_refused(autojump_clock, cluster: Cluster) -> None:
    """As an index would tell that was set back to an older database."""
    bucket = cluster.buckets[0]
    await trio.sleep(61)
    file = MembershipFile(bucket.data_dir)
    remembered = file.load()
    await bucket.stop()
    newer = replace(remembered, epoch=remembered.epoch + 1_000_000)
    file.save(newer)
    await bucket.start()
    await cluster.until(lambda: "older" in bucket.role.checks()["membership"])
    assert bucket.role.roster_epoch() == newer.epoch
    await cluster.settle()
    assert file.load().epoch == newer.epoch
    # The next change overtakes: the index has heard of the one seen.
    await revoke(cluster, cluster.buckets[1])
    await cluster.until(lambda: bucket.role.roster_epoch() > newer.epoch)
    assert bucket.role.checks()["membership"] == ""


async def rotate(cluster: Cluster, node: BucketNode, overlap_s: int = 3600) -> KeyPair:
    """As `ostnode bucket rotate-key` does; the key that the node has from its next start on."""
    done = await rotate_bucket_key(
        cluster.config, cluster.buckets.index(node), overlap_s, node.seams()
    )
    assert done.bucket == node.key.principal
    key_file = node.data_dir / "key"
    found = KeyPair.from_seed(load_seed(key_file))
    assert found.principal == done.key
    assert not successor_of(key_file).exists()
    return found


async def admitted(cluster: Cluster, signer: KeyPair) -> bool:
    """Whether the index takes the key for a bucket's."""
    async with cluster.dial(cluster.index, signer) as link:
        try:
            await link.call(mb.GetRoster(0, 0))
        except NotAuthorizedError:
            return False
    return True


async def test_a_bucket_changes_its_key_and_keeps_its_name(
    autojump_clock, cluster: Cluster
) -> None:
    kept = await cluster.alice.upload(b"kept", cluster.general)
    node = cluster.node(kept.bucket)
    new = await rotate(cluster, node)
    # Both count, and the running process need not care.
    assert await admitted(cluster, node.key)
    assert await admitted(cluster, new)
    await cluster.settle()
    await node.crash()
    await cluster.until(lambda: set(node.role.checks().values()) == {""})
    assert node.role.principal == node.key.principal
    assert node.role.key.principal == new.principal
    await cluster.settle()
    cluster.clock.ahead_s = 3601
    assert not await admitted(cluster, node.key)
    assert await admitted(cluster, new)
    # What was granted, stored and charged under the name is as it was.
    again = await cluster.alice.allocate(b"kept")
    assert again.already_yours
    assert again.bucket.principal == node.key.principal
    page = await cluster.operator.ask(mb.ListMembers(), mb.MemberPage)
    (told,) = (each for each in page.members if each.principal == node.key.principal)
    assert told.key == new.principal
    await cluster.check_accounts()


async def test_a_revoked_bucket_has_no_key_that_counts(autojump_clock, cluster: Cluster) -> None:
    node = cluster.buckets[0]
    new = await rotate(cluster, node)
    await revoke(cluster, node)
    assert not await admitted(cluster, node.key)
    assert not await admitted(cluster, new)


async def test_a_key_changes_only_with_the_index(autojump_clock, cluster: Cluster) -> None:
    node = cluster.buckets[0]
    await trio.sleep(61)
    await node.kill()
    node.go_offline()
    with pytest.raises(UnreachableError):
        await rotate(cluster, node)
    node.go_online()
    await revoke(cluster, node)
    with pytest.raises(NotAuthorizedError):
        await rotate(cluster, node)
    assert KeyPair.from_seed(load_seed(node.data_dir / "key")).principal == node.key.principal


async def test_a_change_of_keys_that_was_cut_off_goes_on(
    autojump_clock, cluster: Cluster, monkeypatch
) -> None:
    node = cluster.buckets[0]
    await cluster.settle()

    def crash(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("ostnode.node.rotation.put_in_place", crash)
    with pytest.raises(OSError):  # noqa: PT011
        await rotate(cluster, node, overlap_s=60)
    successor = successor_of(node.data_dir / "key")
    waiting = KeyPair.from_seed(load_seed(successor))
    assert successor.stat().st_mode & 0o777 == 0o600
    await node.crash()
    await cluster.settle()
    # Even when the old key has come to its end meanwhile.
    cluster.clock.ahead_s = 100_000
    monkeypatch.undo()
    await node.kill()
    new = await rotate(cluster, node, overlap_s=60)
    assert new.principal == waiting.principal
    await node.start()
    await cluster.settle()


STEPS = ("create_key_file", "tell", "keep_change", "put_in_place")


@pytest.mark.parametrize("overlap_s", [0, 3600])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
async def test_a_change_of_keys_goes_on_from_every_point(
    autojump_clock, cluster: Cluster, monkeypatch, step: str, *, after: bool, overlap_s: int
) -> None:
    """The command ends before or after a step, bucket and index start anew, it is given again."""
    node = cluster.buckets[0]
    await all_ready(cluster)
    where = rotation._Index if step == "tell" else rotation
    with monkeypatch.context() as broken:
        broken.setattr(where, step, cut_off(getattr(where, step), after=after))
        with pytest.raises(CutOffError):
            await rotate(cluster, node, overlap_s)
    await node.crash()
    await cluster.index.stop()
    await cluster.index.start()
    if after and step == "put_in_place":
        # It was done, and says so: the change that is told now is the next one.
        cluster.clock.ahead_s = 3601
    new = await rotate(cluster, node, overlap_s)
    await node.crash()
    await all_ready(cluster)
    await cluster.settle()
    assert node.role.key.principal == new.principal
    assert node.role.principal == node.key.principal
    assert [each.name for each in node.data_dir.iterdir() if "key." in each.name] == []


class CutOffError(Exception):
    """The process ended here."""


def cut_off(step: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """The step, at whose end or beginning the process ends."""

    def ended(*arguments: object) -> object:
        done = step(*arguments) if after else None
        if not inspect.iscoroutine(done) and not inspect.iscoroutinefunction(step):
            raise CutOffError

        async def end() -> None:
            if done is not None:
                await done
            raise CutOffError

        return end()

    return ended


async def test_keys_do_not_change_twice_at_once(autojump_clock, cluster: Cluster) -> None:
    node = cluster.buckets[0]
    await rotate(cluster, node)
    await node.crash()
    with pytest.raises(InvalidArgumentError, match="not over yet"):
        await rotate(cluster, node)
    cluster.clock.ahead_s = 3602
    await rotate(cluster, node)
    await node.crash()
    await cluster.settle()


async def set_back(cluster: Cluster, backup: Path) -> None:
    """The index is restored from a backup of its directory."""
    await cluster.index.stop()
    shutil.rmtree(cluster.index.data_dir)
    shutil.copytree(backup, cluster.index.data_dir)
    await cluster.index.start()


async def test_b59_an_index_set_back_to_before_a_change_of_keys_takes_the_bucket_back(
    autojump_clock, cluster: Cluster
) -> None:
    """Two changes, even; and nobody comes in with a key from before them."""
    node, other = cluster.buckets
    await all_ready(cluster)
    await cluster.settle()
    await cluster.index.stop()
    backup = cluster.directory / "backup"
    shutil.copytree(cluster.index.data_dir, backup)
    await cluster.index.start()
    for _ in range(2):
        new = await rotate(cluster, node, overlap_s=0)
        await node.crash()
        await all_ready(cluster)
        cluster.clock.ahead_s += 2
    await set_back(cluster, backup)
    await all_ready(cluster)
    await cluster.settle()
    page = await cluster.operator.ask(mb.ListMembers(), mb.MemberPage)
    assert {each.principal: each.key for each in page.members} == {
        node.key.principal: new.principal,
        other.key.principal: other.key.principal,
    }
    assert not await admitted(cluster, node.key)
    kept = await cluster.alice.upload(b"as before", cluster.general)
    assert await cluster.bob.can_read(cluster.general, kept)


async def test_readyz_tells_what_the_index_refuses_with(autojump_clock, cluster: Cluster) -> None:
    node = cluster.buckets[0]
    await all_ready(cluster)
    await revoke(cluster, node)
    await cluster.until(lambda: "no longer" in node.role.checks()["index"])
    node.go_offline()
    await cluster.until(lambda: node.role.checks()["index"] == "the index is not reachable")
    node.go_online()
    await approve(cluster, node)
    await all_ready(cluster)


async def test_a_line_with_a_wrong_character_leaves_the_token_to_its_bearer(
    autojump_clock, cluster: Cluster
) -> None:
    token = await invited(cluster)
    node = new_bucket(cluster, replace(token, secret=bytes(32)))
    await node.start()
    await cluster.until(lambda: "join token" in node.role.checks()["membership"])
    await trio.sleep(600)
    page = await cluster.operator.ask(mb.ListMembers(), mb.MemberPage)
    assert [each.failures for each in page.invites] == [1]
    await node.stop()
    change_table(cluster, node, join=token)
    await node.start()
    await until_state(cluster, node, "pending", None)


# --- the index's own key ------------------------------------------------------------------------


async def restart_index(cluster: Cluster, **keys: object) -> None:
    """Stop it, edit its table, start it."""
    await cluster.index.stop()
    table = cluster.config.index.model_copy(update=keys)
    cluster.config = cluster.config.model_copy(update={"index": table})
    cluster.index.key = KeyPair.from_seed(load_seed(table.key_file))
    await cluster.index.start()


async def all_ready(cluster: Cluster) -> None:
    await cluster.until(
        lambda: all(set(node.role.checks().values()) == {""} for node in cluster.buckets)
    )


async def test_the_index_changes_its_key(autojump_clock, cluster: Cluster) -> None:
    """Announced, taken over, and the old one at its end; a bucket that slept catches up."""
    first, second = cluster.buckets
    before = await cluster.alice.allocate(b"granted by the old key")
    old_key, new_file = cluster.index.key, cluster.directory / "index-2.key"
    new_key = KeyPair.from_seed(create_key_file(new_file, cluster.rng))
    await restart_index(cluster, next_key_file=new_file)
    await all_ready(cluster)
    await cluster.until(
        lambda: all(
            new_key.principal in MembershipFile(node.data_dir).load().index_names()
            for node in cluster.buckets
        )
    )
    await second.kill()
    await restart_index(cluster, key_file=new_file, next_key_file=None, key_overlap=1000)
    await cluster.until(lambda: set(first.role.checks().values()) == {""})
    await second.start()
    await all_ready(cluster)
    # Grants of both keys count, whichever config says what.
    await cluster.alice.push_all(before, b"granted by the old key", cluster.general)
    kept = await cluster.alice.upload(b"granted by the new one", cluster.general)
    assert await cluster.bob.can_read(cluster.general, kept)
    await rotate(cluster, first)
    # The old key comes to its end.
    held = await cluster.alice.allocate(b"too late")
    forged = await forged_grant(old_key, cluster, held)
    cluster.clock.ahead_s = 1001
    with pytest.raises(GrantInvalidError, match="another key"):
        await cluster.alice.push(forged, 0, b"too late", cluster.general)
    roster = MembershipFile(first.data_dir).load()
    assert roster.index == old_key.principal
    for node in cluster.buckets:
        await node.crash()
    await all_ready(cluster)
    await cluster.check_accounts()


@pytest.mark.parametrize("over", [False, True])
async def test_an_index_set_back_to_before_its_own_change_of_keys_takes_both_steps_again(
    autojump_clock, cluster: Cluster, *, over: bool
) -> None:
    await all_ready(cluster)
    await cluster.settle()
    await cluster.index.stop()
    backup, old_file = cluster.directory / "backup", cluster.config.index.key_file
    shutil.copytree(cluster.index.data_dir, backup)
    new_file = cluster.directory / "index-2.key"
    create_key_file(new_file, cluster.rng)
    await cluster.index.start()
    switched = {"key_file": new_file, "next_key_file": None, "key_overlap": 1000}
    await restart_index(cluster, next_key_file=new_file)
    await all_ready(cluster)
    await trio.sleep(1)
    await restart_index(cluster, **switched)
    await all_ready(cluster)
    await trio.sleep(1)
    cluster.clock.ahead_s = 2000 * over
    with pytest.raises(StartError, match="opens with the old one"):
        await set_back(cluster, backup)
    await restart_index(cluster, key_file=old_file, next_key_file=new_file)
    await restart_index(cluster, **switched)
    await all_ready(cluster)
    kept = await cluster.alice.upload(b"as before", cluster.general)
    assert await cluster.bob.can_read(cluster.general, kept)


async def forged_grant(signer: KeyPair, cluster: Cluster, held: m.Allocation) -> m.Allocation:
    """The grant as somebody would sign it who has the old key."""
    told = {each.principal: each.incarnation for each in (await cluster.status()).buckets}
    grant = open_grant(
        held.grant,
        index=cluster.index.key.principal,
        bucket=held.bucket.principal,
        bucket_incarnation=told[held.bucket.principal],
        now=cluster.clock.now(),
        skew=60,
    )
    ends = replace(grant, index=signer.principal, expires_at=grant.expires_at + 10_000)
    return replace(held, grant=mint_grant(signer, ends))

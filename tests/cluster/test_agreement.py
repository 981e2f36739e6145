"""Index and buckets compared, set back and forgotten: planted damage is found, and nothing else."""

from __future__ import annotations

import copy
import random
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import trio
from structlog.testing import capture_logs

from ostnode.errors import BusyError, OstError
from ostnode.ids import BlobId, Principal, Uid
from ostnode.net.transport import LinkClosedError
from ostnode.roles.bucket import tables as t
from ostnode.roles.index.core import accessors, feed
from ostnode.roles.index.core.checking import Kind
from ostnode.roles.index.core.rows import Charge, OpenGrant, Placement, User
from ostnode.store.simdisk import SimDisk
from ostnode.wire import checking as c
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from tests.support.cluster import LIMIT, Cluster, Shape, Uplink, insist
from tests.support.people import Person

DATA = bytes(range(251)) * 60
DOOMED = Principal(b"doomed".ljust(32))


async def fsck(cluster: Cluster, *, repair: bool = False) -> list[c.CheckFinding]:
    """Run a check to its end; what it has found, by kind and key."""
    request = c.StartCheck(repair=repair)
    progress = await insist(lambda: cluster.operator.ask(request, c.CheckProgress))
    with trio.fail_after(300):
        while not progress.done:
            await trio.sleep(0.5)
            progress = await insist(
                partial(cluster.operator.ask, c.GetCheck(progress.run), c.CheckProgress)
            )
    assert {bucket.state for bucket in progress.buckets} == {"done"}
    page = await cluster.operator.ask(c.ListFindings(), c.FindingPage)
    return list(page.findings)


async def tables_of(cluster: Cluster, change):
    """Do something to the index's database behind its back."""
    return await cluster.index.role.service._transact(change)


async def busy(cluster: Cluster, rng: random.Random, steps: int) -> None:
    """People upload, forward, remove and give up, whatever comes of it."""
    made: list[tuple[Person, m.BlobReference]] = []
    people = [cluster.alice, cluster.bob, cluster.carol]
    for step in range(steps):
        person, general = rng.choice(people), cluster.general
        data = b"%d" % rng.randrange(40)
        with suppress(OstError, LinkClosedError):
            match rng.randrange(4):
                case 0 | 1:
                    made.append((person, await person.upload(data, general, ref_id=b"%d" % step)))
                case 2 if made:
                    owner, reference = made.pop(rng.randrange(len(made)))
                    await owner.remove(reference, general)
                case _:
                    await person.allocate(data * 2)


async def test_a_whole_cluster_has_no_findings(autojump_clock, cluster: Cluster) -> None:
    await busy(cluster, random.Random(1), 40)
    await cluster.settle()
    assert await fsck(cluster) == []


@pytest.mark.parametrize("seed", range(3))
async def test_live_traffic_makes_no_false_finding_and_damage_is_found_exactly(
    seed: int, autojump_clock, cluster: Cluster
) -> None:
    rng = random.Random(seed)
    await busy(cluster, rng, 20)
    await cluster.settle()
    planted = await plant(cluster)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy, cluster, rng, 120)
        found = await fsck(cluster)
        again = await fsck(cluster)
    for findings in (found, again):
        assert {(row.kind, row.uid, row.blob_id) for row in findings} == planted
        assert not any(row.repaired for row in findings)
    await cluster.settle()
    await fsck(cluster, repair=True)
    await fsck(cluster, repair=True)
    assert await fsck(cluster) == []
    assert (await cluster.alice.account())[0] == await held(cluster, cluster.alice)


async def held(cluster: Cluster, person: Person) -> int:
    uid = (await person.info()).uid
    return sum(sum(bucket.held_by(uid).values()) for bucket in cluster.buckets)


async def plant(cluster: Cluster) -> set[tuple[str, Uid | None, BlobId | None]]:
    """One damage of every sort; what a check should say of them."""
    lost, odd, kept = [
        await cluster.alice.upload(data, cluster.random) for data in (b"lost", b"odd!", b"kept")
    ]
    await cluster.settle()
    uid = (await cluster.alice.info()).uid
    bucket = cluster.buckets[0].key.principal
    ghost, nowhere = BlobId(b"g" * 32), BlobId(b"n" * 32)

    def damage(tables) -> None:
        user = tables.users.get(uid)
        gone = tables.charges.get(uid, lost.blob_id)
        tables.charges.drop(uid, lost.blob_id)
        tables.placements.drop(lost.blob_id)
        wrong = tables.charges.get(uid, odd.blob_id)
        tables.charges.put(replace(wrong, size=9))
        tables.charges.put(Charge(uid, ghost, bucket, 100, 1))
        tables.placements.put(Placement(ghost, bucket, charges=1))
        tables.users.put(
            replace(
                user,
                used=user.used - gone.size + 5 + 100,
                blobs=user.blobs,
                version=user.version + 1,
            )
        )
        bob = tables.live_user(cluster.bob.principal)
        tables.users.put(replace(bob, used=bob.used + 7))
        tables.placements.put(Placement(nowhere, bucket, charges=3))

    await tables_of(cluster, damage)
    bob = (await cluster.bob.info()).uid
    assert kept
    return {
        (Kind.REFERENCE_WITHOUT_CHARGE, uid, lost.blob_id),
        (Kind.WRONG_SIZE, uid, odd.blob_id),
        (Kind.CHARGE_WITHOUT_REFERENCE, uid, ghost),
        (Kind.WRONG_ACCOUNT, bob, None),
        (Kind.WRONG_PLACEMENT, None, nowhere),
    }


async def test_an_orphan_reservation_is_found_and_freed(
    autojump_clock, cluster: Cluster, alice: Person
) -> None:
    """The bucket closed the grant, and its word was lost."""
    allocation = await alice.allocate(DATA)
    bucket = cluster.node(allocation.bucket.principal)
    await alice.push(allocation, 0, DATA[:4096], cluster.general)
    row = await tables_of(cluster, lambda tables: tables.grants.get(allocation.grant_id))
    await alice.cancel(allocation, DATA)
    await cluster.settle()

    def bring_back(tables) -> None:
        assert isinstance(row, OpenGrant)
        user = tables.users.get(row.uid)
        tables.grants.put(row)
        tables.users.put(replace(user, reserved=user.reserved + row.reserved, grants=1))
        tables.placements.put(Placement(row.blob_id, row.bucket, grants=1))

    await tables_of(cluster, bring_back)
    found = await fsck(cluster)
    assert [(row.kind, row.grant_id) for row in found] == [
        (Kind.ORPHAN_RESERVATION, allocation.grant_id)
    ]
    assert bucket.rows.grant(allocation.grant_id) is not None
    (mended,) = await fsck(cluster, repair=True)
    assert mended.repaired
    assert await alice.account() == (0, 0)
    assert await fsck(cluster) == []


async def test_b59_b55_b53_a_restored_bucket_begins_anew_and_nothing_returns_or_goes(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person
) -> None:
    general, random_chat = cluster.general, cluster.random
    early = await alice.upload(b"early", general)
    doomed = await alice.upload(b"doomed", random_chat)
    for bucket in cluster.buckets:
        await bucket.kill()
    copies = {bucket: bucket.disk for bucket in cluster.buckets}
    for bucket, disk in copies.items():
        bucket.disk = disk.killed(1)
        copies[bucket] = disk.killed(1)
        await bucket.start()
    await cluster.settle()
    used = await bob.allocate(b"used later")
    await bob.push_all(used, b"used later", general)
    begun = await alice.allocate(DATA)
    await app.delete_chat(random_chat)
    await cluster.settle()
    before = {bucket: bucket.rows.number(t.INCARNATION) for bucket in cluster.buckets}
    for bucket, disk in copies.items():
        await bucket.kill()
        bucket.disk = disk
        await bucket.start()
    await cluster.settle()
    await cluster.until(
        lambda: all(b.rows.number(t.INCARNATION) > before[b] for b in cluster.buckets)
    )
    await cluster.settle()
    # B59: what was there is there; B55: what was deleted is not.
    assert await cluster.carol.can_read(general, early)
    assert not await cluster.carol.can_read(random_chat, doomed)
    # B53: a used grant and one of the old incarnation are dead.
    for allocation, data in ((used, b"used later"), (begun, DATA)):
        with pytest.raises(OstError) as refused:
            await (bob if data == b"used later" else alice).push_all(allocation, data, general)
        assert refused.value.code in {"grant_invalid", "grant_closed"}
    # Nothing is destroyed for being unmentioned: bob's charge stays, and is named.
    assert (await bob.account())[0] == len(b"used later")
    found = await fsck(cluster)
    assert {row.kind for row in found} == {Kind.CHARGE_WITHOUT_REFERENCE}
    await alice.upload(DATA, general)
    await fsck(cluster, repair=True)
    await bob.upload(b"used later", general)
    await cluster.check_accounts()
    assert await fsck(cluster) == []


def restore_index(cluster: Cluster, backup: bytes) -> None:
    """Put an older copy of its database in place; the index is not running."""
    for file in cluster.index.data_dir.glob("index.sqlite*"):
        file.unlink()
    (cluster.index.data_dir / "index.sqlite").write_bytes(backup)


async def test_b59_a_restored_index_grants_when_every_bucket_has_agreed(
    autojump_clock, cluster: Cluster, alice: Person
) -> None:
    await alice.upload(b"early", cluster.general)
    await cluster.settle()
    await cluster.index.kill()
    backup = (cluster.index.data_dir / "index.sqlite").read_bytes()
    await cluster.index.start()
    await alice.upload(b"late", cluster.general)
    await cluster.settle()
    life = (await cluster.status()).incarnation
    away = cluster.buckets[1]
    await cluster.index.kill()
    restore_index(cluster, backup)
    await away.kill()
    await cluster.index.start()
    await trio.sleep(30)
    assert (await cluster.status()).incarnation > life
    progress = await cluster.operator.ask(c.GetCheck(0), c.CheckProgress)
    assert progress.missing == (away.key.principal,)
    with pytest.raises(BusyError, match="before 1 buckets have agreed"):
        await alice.allocate(b"now")
    await away.start()
    await cluster.settle()
    assert (await cluster.operator.ask(c.GetCheck(0), c.CheckProgress)).missing == ()
    assert await alice.account() == (len(b"early") + len(b"late"), 0)
    await alice.upload(b"now", cluster.general)
    await cluster.check_accounts()
    assert await fsck(cluster) == []


async def test_b59_b55_after_a_restore_of_the_index_nothing_returns_or_goes(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person
) -> None:
    general, random_chat = cluster.general, cluster.random
    early = await alice.upload(b"early", general)
    doomed = await alice.upload(b"doomed", random_chat)
    await cluster.settle()
    await cluster.index.kill()
    backup = (cluster.index.data_dir / "index.sqlite").read_bytes()
    await cluster.index.start()
    late = await alice.upload(b"late", general)
    open_grant = await bob.allocate(b"never pushed")
    await app.delete_chat(random_chat)
    await app.change(("delete", cluster.carol, 0), ("register", cluster.carol, LIMIT))
    newcomer = (await cluster.carol.info()).uid
    await cluster.carol.upload(b"newcomer", general)
    await cluster.settle()
    await cluster.index.kill()
    restore_index(cluster, backup)
    await cluster.index.start()
    await trio.sleep(30)
    await cluster.settle()
    for made in (early, late):
        assert await cluster.stranger.can_read(general, made)
    assert not await cluster.stranger.can_read(random_chat, doomed)
    with pytest.raises(OstError) as refused:
        await bob.push_all(open_grant, b"never pushed", general)
    assert refused.value.code == "grant_invalid"
    # The old registration was deleted, and stays so; the new one is known to nobody.
    with pytest.raises(OstError, match="registered"):
        await cluster.carol.info()
    assert await alice.account() == (len(b"early") + len(b"late") + len(b"doomed"), 0)
    found = await fsck(cluster)
    assert {(row.kind, row.uid) for row in found} == {
        (Kind.CHARGE_WITHOUT_REFERENCE, early.owner),
        (Kind.UNKNOWN_USER, newcomer),
    }
    await fsck(cluster, repair=True)
    assert await alice.account() == (len(b"early") + len(b"late"), 0)
    await app.change(("register", cluster.carol, LIMIT))
    await bob.upload(b"never pushed", general)
    await cluster.check_accounts()
    assert {row.kind for row in await fsck(cluster)} == {Kind.UNKNOWN_USER}


async def test_b63_a_lost_bucket_is_forgotten_and_comes_back_only_empty(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, operator: Person
) -> None:
    general = cluster.general
    made = [await alice.upload(b"blob %d" % n, general) for n in range(12)]
    await cluster.settle()
    lost = cluster.node(made[0].bucket)
    gone = {row.blob_id: row.size for row in made if row.bucket == lost.key.principal}
    rest = sum(row.size for row in made) - sum(gone.values())
    reserved = await bob.allocate(b"begun")
    for n in range(99):
        if reserved.bucket.principal == lost.key.principal:
            break
        reserved = await bob.allocate(b"begun %d" % n)
    await lost.kill()
    with pytest.raises(OstError, match="revoke"):
        await operator.ask(c.ForgetBucket(lost.key.principal), c.Forgotten)
    await operator.ask(mb.RevokeBucket(lost.key.principal), m.Ok)
    after, done = b"", False
    while not done:
        told = await operator.ask(c.ForgetBucket(lost.key.principal, after), c.Forgotten)
        after, done = told.after, told.done
    assert await alice.account() == (rest, 0)
    assert not await tables_of(cluster, lambda tables: tables.grants.get(reserved.grant_id))
    page = await operator.ask(c.ListFindings(bucket=lost.key.principal), c.FindingPage)
    assert {row.blob_id: row.expected for row in page.findings} == gone
    assert {row.kind for row in page.findings} == {Kind.LOST_BLOB}
    # Uploading again works, elsewhere.
    again = await alice.upload(b"blob 0", general)
    assert again.bucket != lost.key.principal
    # It comes back with its old data: it is turned away; with an empty directory it may work.
    await operator.ask(mb.ApproveBucket(lost.key.principal), m.Ok)
    await lost.start()
    await trio.sleep(60)
    assert (await states(cluster))[lost.key.principal] == "pending"
    await lost.kill()
    lost.disk = SimDisk()
    await lost.start()
    await trio.sleep(60)
    assert (await states(cluster))[lost.key.principal] == "active"
    await alice.upload(b"blob 1", general)
    await cluster.check_accounts()
    assert {row.kind for row in await fsck(cluster)} <= {Kind.LOST_BLOB}


async def states(cluster: Cluster) -> dict[bytes, str]:
    return {row.principal: row.state for row in (await cluster.status()).buckets}


async def test_b31_a_rejected_event_is_listed_and_dismissed_and_its_grant_is_forgotten(
    autojump_clock, cluster: Cluster, alice: Person, operator: Person
) -> None:
    """The index's row says another uid: the completion cannot be applied."""
    allocation = await alice.allocate(DATA)
    bucket = cluster.node(allocation.bucket.principal)

    def spoil(tables) -> None:
        row = tables.grants.get(allocation.grant_id)
        tables.grants.put(replace(row, uid=Uid(b"somebody")))

    await tables_of(cluster, spoil)
    await alice.push_all(allocation, DATA, cluster.general)
    await cluster.settle()
    page = await operator.ask(c.ListRejected(), c.RejectedPage)
    (event,) = page.events
    assert (event.bucket, event.reason) == (
        bucket.key.principal,
        "the grant is another bucket's, uid's or blob's",
    )
    assert not page.more
    closed = bucket.rows.grant(allocation.grant_id)
    assert isinstance(closed, t.ClosedGrant)
    assert closed.end >= allocation.expires_at
    await operator.ask(c.DismissRejected(event.bucket, event.seq), m.Ok)
    assert (await operator.ask(c.ListRejected(), c.RejectedPage)).events == ()
    await cluster.grants_over()
    assert bucket.rows.grant(allocation.grant_id) is None
    (missing,) = [row for row in await fsck(cluster) if row.kind == Kind.REFERENCE_WITHOUT_CHARGE]
    assert missing.found == len(DATA)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [Shape(buckets=1)])
async def test_b32_a_bucket_that_missed_100_000_changes_catches_up_in_bounded_batches(
    autojump_clock, cluster: Cluster
) -> None:
    """Its cursor is as far behind as it likes: what it reads from there on is the snapshot."""
    (bucket,) = cluster.buckets
    await cluster.settle()
    bucket.go_offline()
    changed = 100_000
    uids = [Uid(n.to_bytes(8, "big")) for n in range(1000)]

    def change(tables, step: int) -> None:
        for uid in uids:
            row = User(uid, Principal(uid * 4), step, "refuse", version=step + 1)
            tables.users.put(row)
            feed.announce_user(tables, uid, urgent=False)

    for step in range(changed // len(uids)):
        await tables_of(cluster, partial(change, step=step))
    await tables_of(cluster, lambda tables: accessors.burn_accessor(tables, DOOMED, 1))
    await trio.sleep(30)
    asked_before = len(cluster.index.gate.asked)
    bucket.go_online()
    await cluster.settle()
    polls = [row for row in cluster.index.gate.asked[asked_before:] if isinstance(row, m.Feed)]
    assert len({row.seq for row in polls}) <= 6
    for uid in uids:
        user = bucket.rows.user(uid)
        assert user is not None
        assert (user.version, user.bytes_left) == (changed // len(uids), 99)
    assert bucket.rows.burned(DOOMED)


async def test_of_two_processes_with_one_buckets_key_the_first_goes_on(
    autojump_clock, cluster: Cluster, alice: Person
) -> None:
    """An old copy of the directory is started while the bucket runs; it stays refused."""
    bucket = cluster.buckets[0]
    await bucket.kill()
    twin = copy.copy(bucket)
    twin.disk, twin.uplink = bucket.disk.killed(1), Uplink(cluster.network)
    await bucket.start()
    made = await alice.upload(DATA, cluster.general)
    await cluster.settle()
    life = bucket.rows.number(t.INCARNATION)
    with capture_logs() as logs:
        async with twin.open_role(cluster.config, twin.seams()) as role:
            told = set()
            for _ in range(40):
                await trio.sleep(2)
                assert bucket.rows.number(t.INCARNATION) == life
                told.add(role.checks()["index"])
            assert any("in use twice" in problem for problem in told)
            assert role.service._desk.durable.number(t.INCARNATION) == life
            await alice.upload(b"more", cluster.general)
    ended = [entry for entry in logs if "in use twice" in entry.get("reason", "")]
    assert len(ended) > 3
    assert [entry["log_level"] for entry in ended if entry["log_level"] != "debug"] == ["info"]
    assert await cluster.stranger.can_read(cluster.general, made)
    await cluster.check_accounts()
    assert await fsck(cluster) == []

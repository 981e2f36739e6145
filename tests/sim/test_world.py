"""A simulated cluster: what survives which crash, who notices what, and that a seed is a run."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from ostnode.errors import InternalError, OstError, ShuttingDownError
from ostnode.net.transport import LinkClosedError
from ostnode.roles.index.core.rows import THE_INDEX
from ostnode.sim.database import Moment
from ostnode.sim.faults import Kind, older_limits
from ostnode.sim.plan import Fault, Plan
from ostnode.sim.schedules import faults_of
from ostnode.sim.world import World, client_name, run_world
from ostnode.wire import messages as m
from ostnode.wire.session import LEDGER, PROTOCOL_MAX, ROSTER
from tests.support.simkit import ALICE, ask, blob_of, read, settle_in, upload

DATA = b"alice has sent this"
PLAN = Plan(seed=7)
ALONE = Plan(seed=7, buckets=1)
ROOT = Path(__file__).parents[2]


def play(main, plan: Plan = PLAN):
    """The result of a scene; nothing may have been logged as an error."""

    async def whole(world: World):
        result = await main(world)
        assert not world.errors
        return result

    return run_world(plan, whole).result


@pytest.mark.parametrize("power", [False, True], ids=["killed", "without power"])
def test_what_was_acknowledged_survives_a_crash_of_either_role(power):
    async def scene(world: World) -> None:
        await settle_in(world)
        name = await upload(world, DATA)
        crashed: list[str] = []
        world.on_crash.append(crashed.append)
        for node in (name, "index"):
            await world.crash(node, power=power)
            assert not world.nodes[node].running
            await world.start(node)
        assert crashed == [name, "index"]
        assert await read(world, name, DATA) == DATA
        await trio.sleep(30)
        (charge,) = world.index_tables().charges.where()
        assert charge.size == len(DATA)

    play(scene)


@pytest.mark.parametrize("power", [False, True], ids=["killed", "without power"])
def test_what_was_not_synced_is_lost_with_the_power_only(power):
    stray = bytes(range(1, 256)) * 256

    async def scene(world: World) -> None:
        await settle_in(world)
        kept = set()
        for node in world.buckets:
            file = node.disk.open("stray", create=True)
            node.disk.sync_names()
            file.write(0, [stray])
            before = node.disk
            await world.crash(node.name, power=power)
            assert node.disk is not before
            kept.add(bytes(node.disk.files["stray"].seen) == stray)
        assert (False in kept) is power

    play(scene)


@pytest.mark.parametrize("power", [False, True], ids=["killed", "without power"])
def test_a_machine_without_power_says_nothing_to_those_who_talk_to_it(power):
    async def scene(world: World) -> bool:
        await settle_in(world)
        async with world.link(ALICE, "index") as link:
            await world.crash("index", power=power)
            with trio.move_on_after(10) as scope:
                await link.wait_closed()
        return scope.cancelled_caught

    assert play(scene) is power


def test_a_node_signs_by_its_own_clock():
    async def scene(world: World) -> None:
        await settle_in(world)
        world.clock_of("index").set(5000)
        before = int(world.clock.now())
        await ask(world, ALICE, "index", m.Allocate(blob_of(DATA), len(DATA)))
        (grant,) = world.index_tables().grants.where()
        assert grant.latest_end >= before + 5000

    play(scene)


def test_committed_rows_can_be_read_while_the_index_is_down():
    async def scene(world: World) -> None:
        await settle_in(world)
        await world.crash("index")
        assert [user.principal for user in world.index_tables().users.where()] == [ALICE.principal]
        assert world.bucket_rows("bucket0") is not None
        await world.crash("bucket0")
        assert world.bucket_rows("bucket0") is None

    play(scene)


@pytest.mark.parametrize("moment", Moment)
def test_an_index_that_dies_about_a_commit_leaves_the_outcome_unknown(moment):
    async def scene(world: World) -> int:
        await settle_in(world)
        change = m.UserChange("update", ALICE.principal, 4711)
        async with world.link(world.app, "index") as link:
            world.index.database.crash_at = moment
            with pytest.raises(LinkClosedError):
                await link.call(m.ChangeUsers((change,)))
        assert not world.index.running
        await world.start("index")
        (user,) = world.index_tables().users.where()
        return user.byte_limit

    assert (play(scene) == 4711) is (moment is Moment.AFTER_COMMIT)


def test_the_index_can_be_set_back_to_a_backup():
    async def scene(world: World) -> None:
        await settle_in(world)
        backup = world.index.database.backup()
        incarnation = world.index_tables().meta.get(THE_INDEX).incarnation
        await upload(world, DATA)
        assert world.index_tables().placements.where()
        await world.crash("index")
        world.index.database.restore(backup)
        assert not world.index_tables().placements.where()
        assert world.index_tables().meta.get(THE_INDEX).incarnation == incarnation

    play(scene)


def test_a_bucket_dies_in_the_middle_of_a_write_and_comes_back():
    async def scene(world: World) -> None:
        await settle_in(world)
        await upload(world, DATA)
        allocation = await ask(world, ALICE, "index", m.Allocate(blob_of(b"more"), 4))
        world.buckets[0].crash_in_write(1)
        push = m.PushChunk(allocation.grant, 0, (ALICE.principal,), b"x")
        with pytest.raises(LinkClosedError):
            await ask(world, ALICE, "bucket0", push, b"more")
        assert not world.nodes["bucket0"].running
        await world.start("bucket0")
        assert await read(world, "bucket0", DATA) == DATA
        await ask(world, ALICE, "bucket0", push, b"more")

    play(scene, ALONE)


def test_a_bucket_whose_disk_fails_to_sync_ends_and_tells_nobody_of_what_it_wrote():
    async def scene(world: World) -> None:
        await settle_in(world)
        world.buckets[0].fail_sync()
        with pytest.raises((LinkClosedError, ShuttingDownError)):
            await upload(world, DATA)
        with trio.fail_after(5):
            while world.nodes["bucket0"].running:  # noqa: ASYNC110  no event tells
                await trio.sleep(0.1)
        await world.heal()
        await upload(world, DATA)
        assert await read(world, "bucket0", DATA) == DATA

    play(scene, ALONE)


def test_a_full_disk_refuses_until_there_is_room_again():
    async def scene(world: World) -> None:
        await settle_in(world)
        world.buckets[0].fill(0)
        with pytest.raises(OstError) as refused:
            await upload(world, DATA)
        assert refused.value.code in {"bucket_full", "busy", "no_bucket"}
        world.buckets[0].fill(None)
        await trio.sleep(200)  # the index hears that it is not full any more
        await upload(world, DATA)

    play(scene, ALONE)


def test_a_node_that_stops_in_order_says_so_and_starts_again():
    async def scene(world: World) -> None:
        await settle_in(world)
        async with world.link(ALICE, "index") as link:
            await world.stop("index")
            with trio.fail_after(1):
                await link.wait_closed()
        with pytest.raises(LinkClosedError):
            await ask(world, ALICE, "index", m.GetUser())
        await world.restart("index")
        await world.restart("index")
        assert isinstance(await ask(world, ALICE, "index", m.GetUser()), m.UserInfo)

    play(scene)


@pytest.mark.parametrize(
    ("amount", "version", "features"),
    [(0, 1, set()), (1, PROTOCOL_MAX, set()), (2, PROTOCOL_MAX, {ROSTER})],
)
def test_an_older_program_speaks_as_it_did(amount, version, features):
    async def scene(world: World) -> None:
        await settle_in(world)
        world.nodes["bucket0"].link_limits = older_limits(amount)
        await world.restart("bucket0")
        async with world.link(ALICE, "bucket0") as link:
            assert (link.version, link.features) == (version, features)
        async with world.link(ALICE, "index") as link:
            assert (link.version, link.features) == (PROTOCOL_MAX, {ROSTER, LEDGER})
        for number in range(4):
            await upload(world, b"%d" % number)

    play(scene)


def test_a_partition_from_everybody_leaves_a_client_alone():
    async def scene(world: World) -> None:
        await settle_in(world)
        world.network.partition(client_name(ALICE))
        with pytest.raises(LinkClosedError, match="handshake"):
            await ask(world, ALICE, "index", m.GetUser())
        assert await ask(world, world.app, "index", m.GetUser(ALICE.principal))
        world.network.heal()
        await ask(world, ALICE, "index", m.GetUser())

    play(scene)


def test_clocks_are_each_nodes_own():
    async def scene(world: World) -> None:
        true = world.clock.now
        world.clock_of("index").set(5)
        world.clock_of("bucket0").set(-3, drift=0.5)
        await trio.sleep(10)
        ahead = {name: world.clock_of(name).now() - true() for name in world.nodes}
        assert ahead == pytest.approx({"index": 5, "bucket0": 2, "bucket1": 0})
        await world.heal()
        assert world.clock_of("bucket0").ahead_s == 0

    play(scene)


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_fault_happens_and_heals(kind):
    amount = {Kind.FULL: 1000.0, Kind.SLOW: 0.1, Kind.DRIFT: 0.1}.get(kind, 1.0)
    faults = tuple(
        Fault(at_s, kind.value, node, for_s=5, amount=amount)
        for at_s, node in [(5.0, "index"), (6.0, "bucket0"), (20.0, "bucket1")]
    )

    async def scene(world: World) -> int:
        await settle_in(world)
        await trio.sleep(30)
        await world.heal()
        name = await upload(world, DATA)
        assert await read(world, name, DATA) == DATA
        return sum(f" fault {kind}" in line for line in world.trace.tail)

    assert play(scene, Plan(seed=1, faults=faults)) == 3


def test_healing_ends_what_lasts_longer():
    forever = 10_000.0
    faults = (
        Fault(1.0, "kill", "bucket0", for_s=forever),
        Fault(1.0, "partition", "index", for_s=forever, other="bucket1"),
        Fault(1.0, "refuse", "index", for_s=forever),
        Fault(9.0, "kill", "index", for_s=forever),
    )

    async def scene(world: World) -> float:
        await trio.sleep(5)
        await world.heal()
        assert all(node.running for node in world.nodes.values())
        await settle_in(world)
        await trio.sleep(10)
        assert world.nodes["index"].running
        return trio.current_time()

    assert play(scene, Plan(seed=1, faults=faults)) < 100


def test_what_a_node_logs_as_an_error_is_an_error_of_the_world():
    async def scene(world: World) -> list[str]:
        await settle_in(world)
        broken = m.GetUser(ALICE.principal)

        async def fail(*_args: object) -> None:
            await trio.lowlevel.checkpoint()
            raise ZeroDivisionError

        world.index.role.service.handle = fail
        with pytest.raises(InternalError):
            await ask(world, ALICE, "index", broken)
        return list(world.errors)

    errors = run_world(PLAN, scene).result
    assert errors
    assert all("ZeroDivisionError" in error for error in errors)


def test_schedules_are_made_from_the_seed_alone():
    assert faults_of(3, set(Kind), 60, 2) == faults_of(3, set(Kind), 60, 2)
    assert faults_of(3, set(Kind), 60, 2) != faults_of(4, set(Kind), 60, 2)
    assert not faults_of(3, set(), 60, 2)
    found = {fault.kind for seed in range(50) for fault in faults_of(seed, set(Kind), 60, 3)}
    assert found == {kind.value for kind in Kind}
    only = faults_of(3, {Kind.FULL}, 600, 3)
    assert {fault.node for fault in only} == {"bucket0", "bucket1", "bucket2"}
    assert all(0 < fault.at_s < 600 for fault in only)


@pytest.mark.slow
def test_a_seed_is_the_same_run_in_every_process():
    """Nothing depends on how a process hashes, or on where it keeps its objects."""
    script = (
        "from tests.sim.test_world import storm; import sys; print(storm(int(sys.argv[1])).digest)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, "5"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == storm(5).digest + "\n"
    assert storm(6).digest != storm(5).digest


def storm(seed: int):
    """Uploads under every kind of fault."""

    async def scene(world: World) -> None:
        await settle_in(world)
        for number in range(30):
            with suppress(LinkClosedError, OstError), trio.move_on_after(10):
                await upload(world, b"%d" % number)

    return run_world(Plan(seed=seed, faults=faults_of(seed, set(Kind), 30, 2)), scene)

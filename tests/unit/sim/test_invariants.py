"""Every invariant can fail: pictures of a real run, each with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.roles.index.core.rows import BucketState, Rejected
from ostnode.sim.cases import make_case
from ostnode.sim.invariants import Growing, problems_of, rest_problems
from ostnode.sim.pictures import BucketPicture, IndexPicture
from ostnode.sim.running import run_case
from ostnode.sim.watching import Watch
from ostnode.wire import events as e


@dataclass(frozen=True)
class Scene:
    index: IndexPicture
    bucket: BucketPicture
    other: BucketPicture

    @property
    def buckets(self) -> list[BucketPicture]:
        return [self.bucket, self.other]

    def with_index(self, **changes: object) -> Scene:
        return replace(self, index=replace(self.index, **changes))

    def with_bucket(self, **changes: object) -> Scene:
        return replace(self, bucket=replace(self.bucket, **changes))

    def with_row(self, **changes: object) -> Scene:
        """What the index says of the bucket."""
        row = replace(self.index.buckets[self.bucket.principal], **changes)
        return self.with_index(buckets=dict(self.index.buckets) | {row.principal: row})


def _content(bucket: BucketPicture) -> tuple[int, int]:
    return -len(bucket.uploads), -len(bucket.references)


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    """A moment in the middle of the work, and the end."""
    patch, taken = pytest.MonkeyPatch(), list[Scene]()
    look = Watch.look

    def taking(self: Watch):
        index, buckets = look(self)
        if len(buckets) == 2:
            taken.append(Scene(index, *sorted(buckets, key=_content)))
        return index, buckets

    patch.setattr(Watch, "look", taking)
    patch.setattr("ostnode.sim.watching.COMMITS_BETWEEN_LOOKS", 3)
    outcome = run_case(make_case(1, 60.0, ()))
    patch.undo()
    assert not outcome.problem
    busy = max(taken, key=lambda scene: (len(scene.bucket.uploads), len(scene.index.grants)))
    return {"busy": busy, "rest": taken[-1]}


UID, BLOB, CHAT = Uid(b"nobody's"), BlobId(bytes(32)), Principal(bytes(31) + b"\x01")
GRANT = GrantId(b"grant-of-nobody.")


def _account(scene: Scene) -> Scene:
    user = next(user for user in scene.index.users.values() if user.used)
    users = dict(scene.index.users) | {user.uid: replace(user, used=user.used + 1)}
    return scene.with_index(users=users)


def _twice(scene: Scene) -> Scene:
    user = next(user for user in scene.index.users.values() if not user.deleted)
    return scene.with_index(users=dict(scene.index.users) | {UID: replace(user, uid=UID)})


def _placement(scene: Scene) -> Scene:
    place = next(iter(scene.index.placements.values()))
    places = dict(scene.index.placements) | {
        place.blob_id: replace(place, charges=place.charges + 1)
    }
    return scene.with_index(placements=places)


def _misplaced(scene: Scene) -> Scene:
    place = next(place for place in scene.index.placements.values() if place.charges)
    places = {key: row for key, row in scene.index.placements.items() if key != place.blob_id}
    return scene.with_index(placements=places)


def _copy(scene: Scene) -> Scene:
    name, row = next(iter(scene.bucket.references.items()))
    return replace(scene, other=replace(scene.other, references={name: row}))


def _lost(scene: Scene) -> Scene:
    name = next(iter(scene.bucket.references))
    blobs = {key: row for key, row in scene.bucket.blobs.items() if key != name.blob_id}
    return scene.with_bucket(blobs=blobs)


def _garbage(scene: Scene) -> Scene:
    row = next(iter(scene.bucket.blobs.values()))
    return scene.with_bucket(blobs={**scene.bucket.blobs, BLOB: row})


def _uncharged(scene: Scene) -> Scene:
    return scene.with_bucket(held={**scene.bucket.held, (UID, BLOB): 1})


def _unheld(scene: Scene) -> Scene:
    held = dict(scene.bucket.held)
    held.pop(next(key for key in scene.index.charges if key in held))
    return scene.with_bucket(held=held)


def _unreserved(scene: Scene) -> Scene:
    return scene.with_index(grants={})


def _unheard(scene: Scene) -> Scene:
    here = scene.bucket.principal
    grant = next(row for row in scene.index.grants.values() if row.bucket == here)
    return scene.with_bucket(closed=scene.bucket.closed | {grant.grant_id}, outbox={})


def _unread(scene: Scene) -> Scene:
    row = next(row for row in scene.index.feed if row.entity[:1] == b"u")
    users = {uid: user for uid, user in scene.bucket.users.items() if uid != row.entity[1:]}
    return scene.with_bucket(users=users, feed_seq=scene.index.feed_seq)


def _completed(scene: Scene) -> Scene:
    number = scene.bucket.next_event
    event = e.Completed(GRANT, UID, BLOB, 1)
    changes = {"outbox": {number: event}, "next_event": number + 1}
    return scene.with_bucket(held={**scene.bucket.held, (UID, BLOB): 1}, **changes)


BROKEN: list[tuple[str, str, Callable[[Scene], Scene]]] = [
    ("rest", "says (used, reserved", _account),
    ("rest", "is registered twice", _twice),
    ("rest", "does not count its grants and charges", _placement),
    ("rest", "which it is not in", _misplaced),
    ("rest", "is stored in 2 buckets", _copy),
    ("rest", "has references and is not stored", _lost),
    ("rest", "has no references and is stored", _garbage),
    ("rest", "is said to be", lambda scene: scene.with_bucket(counts={UID: 1})),
    ("busy", "bytes are promised", lambda scene: scene.with_bucket(promised=1 << 40)),
    ("rest", "was told", lambda scene: scene.with_row(acked_seq=0)),
    ("rest", "has lost it", lambda scene: scene.with_row(acked_seq=1 << 40)),
    ("rest", "whose floor is", lambda scene: scene.with_row(floor=1 << 60)),
    ("rest", "in a feed that ends", lambda scene: scene.with_bucket(feed_seq=1 << 40)),
    ("rest", "and is not charged", _uncharged),
    ("rest", "not held in bucket", _unheld),
    ("busy", "is open in bucket", _unreserved),
    ("busy", "and the index never hears", _unheard),
    ("busy", "and still reserved", lambda scene: scene.with_row(floor=1 << 60)),
    ("rest", "in the feed without effect", _unread),
    ("rest", "completed in bucket", _completed),
]


@pytest.mark.parametrize(("when", "words", "change"), BROKEN, ids=[words for _, words, _ in BROKEN])
def test_what_is_wrong_is_told(
    scenes: dict[str, Scene], when: str, words: str, change: Callable[[Scene], Scene]
) -> None:
    scene = scenes[when]
    assert not list(problems_of(scene.index, scene.buckets))
    wrong = change(scene)
    assert any(words in problem for problem in problems_of(wrong.index, wrong.buckets))


def _waiting(scene: Scene) -> Scene:
    number = scene.bucket.next_event
    return scene.with_bucket(outbox={number: e.FloorRaised(1)}, next_event=number + 1)


UNRESTED: list[tuple[str, Callable[[Scene], Scene]]] = [
    ("changes are not in the feed", lambda scene: scene.with_index(unstamped=1)),
    ("is unknown", lambda scene: scene.with_index(buckets={})),
    ("is pending", lambda scene: scene.with_row(state=BucketState.PENDING)),
    ("has events that the index does not", _waiting),
    ("in the feed", lambda scene: scene.with_bucket(feed_seq=0)),
    ("sweeps to do", lambda scene: scene.with_bucket(sweeps=2)),
    (
        "was set aside: why",
        lambda scene: scene.with_index(rejected=[Rejected(CHAT, 1, "why", b"", 0)]),
    ),
]


@pytest.mark.parametrize(("words", "change"), UNRESTED, ids=[words for words, _ in UNRESTED])
def test_what_is_under_way_is_told(
    scenes: dict[str, Scene], words: str, change: Callable[[Scene], Scene]
) -> None:
    scene = scenes["rest"]
    assert not list(rest_problems(scene.index, scene.buckets))
    wrong = change(scene)
    assert any(words in problem for problem in rest_problems(wrong.index, wrong.buckets))


def test_an_open_grant_and_its_upload_are_under_way(scenes: dict[str, Scene]) -> None:
    problems = list(rest_problems(scenes["busy"].index, scenes["busy"].buckets))
    assert any("is still open at the index" in problem for problem in problems)
    assert any("has an open upload" in problem for problem in problems)


SHRUNK: list[tuple[str, Callable[[Scene], Scene]]] = [
    ("the index's feed went back", lambda scene: scene.with_index(feed_seq=0)),
    ("the index's roster went back", lambda scene: scene.with_index(epoch=0)),
    ("the index's registrations have lost", lambda scene: scene.with_index(users={})),
    ("word of a bucket's floor went back", lambda scene: scene.with_row(floor=0)),
    ("a bucket's floor went back", lambda scene: scene.with_bucket(floor=0)),
    ("a bucket's events went back", lambda scene: scene.with_bucket(next_event=1)),
    ("has unread the feed", lambda scene: scene.with_bucket(feed_seq=0)),
    ("a bucket's burned accessors have lost", lambda scene: scene.with_bucket(burned=frozenset())),
]


@pytest.mark.parametrize(("words", "change"), SHRUNK, ids=[words for words, _ in SHRUNK])
def test_what_shrinks_is_told(
    scenes: dict[str, Scene], words: str, change: Callable[[Scene], Scene]
) -> None:
    scene = scenes["rest"].with_bucket(burned=frozenset({CHAT})).with_index(epoch=7)
    growing = Growing()
    assert not growing.look(scene.index, scene.buckets)
    assert not growing.look(scene.index, scene.buckets)
    less = change(scene)
    assert any(words in problem for problem in growing.look(less.index, less.buckets))


def test_a_bucket_that_reads_at_another_level_begins_anew(scenes: dict[str, Scene]) -> None:
    scene, growing = scenes["rest"], Growing()
    growing.look(scene.index, scene.buckets)
    anew = scene.with_bucket(feed_level=scene.bucket.feed_level + 1, feed_seq=0)
    assert not growing.look(anew.index, anew.buckets)

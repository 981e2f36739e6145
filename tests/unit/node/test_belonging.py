"""What a bucket remembers of its cluster, and which index is its own."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ostnode.config import BucketConfig, JoinToken
from ostnode.env import InlineWorker
from ostnode.errors import BusyError, InternalError, NotAuthorizedError, TokenInvalidError
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal
from ostnode.node.belonging import Belonging, IndexPlace, counting, find_index
from ostnode.node.errors import StartError
from ostnode.node.memory import MembershipFile, Remembered
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply
from ostnode.wire.fields import Message, Request
from ostnode.wire.roster import Roster, RosterBucket, RosterKey, sign_roster

INDEX, OTHER = KeyPair.from_seed(bytes(32)), KeyPair.from_seed(bytes([1]) * 32)
BUCKET = Principal(b"b" * 32)
CLUSTER = ClusterId(b"cluster-cluster-")
TOKEN = JoinToken(INDEX.principal, "index.test:7101", b"invite-8", b"s" * 32)
KNOWN = Remembered(CLUSTER, BUCKET, INDEX.principal, "index.test:7101")


def table(**keys: object) -> BucketConfig:
    return BucketConfig.model_construct(**{"index": None, "index_peer": "", "join": None, **keys})


def found(remembered: Remembered | None, **keys: object) -> IndexPlace:
    return find_index("bucket[0]", table(**keys), CLUSTER, remembered)


# --- which index --------------------------------------------------------------------------------


def test_the_index_is_that_of_config_token_or_memory() -> None:
    configured = found(None, index=INDEX.principal, index_peer="there:1")
    assert configured == IndexPlace(INDEX.principal, "there:1", None)
    assert found(None, join=TOKEN) == IndexPlace(INDEX.principal, "index.test:7101", TOKEN)
    assert found(KNOWN) == IndexPlace(INDEX.principal, "index.test:7101", None)


def test_config_and_token_say_where_a_remembered_index_is_now() -> None:
    assert found(KNOWN, index=INDEX.principal, index_peer="there:1").peer == "there:1"
    assert found(KNOWN, join=replace(TOKEN, peer="moved:1")).peer == "moved:1"


@pytest.mark.parametrize(
    ("remembered", "keys", "problem"),
    [
        (None, {}, "joined no index yet"),
        (KNOWN, {"index": OTHER.principal, "index_peer": "there:1"}, "another index"),
        (KNOWN, {"join": replace(TOKEN, index=OTHER.principal)}, "another index"),
        (replace(KNOWN, cluster_id=ClusterId(bytes(16))), {}, "another cluster"),
    ],
)
def test_no_index_or_another_one_is_told(remembered, keys, problem: str) -> None:
    with pytest.raises(StartError, match=problem) as refused:
        found(remembered, **keys)
    assert "bucket[0]" in refused.value.hint


# --- the file -----------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = MembershipFile(tmp_path)
    assert file.load() is None
    for known in (KNOWN, replace(KNOWN, epoch=7, roster=b"r" * mb.ROSTER_BYTES_MAX)):
        file.save(known)
        assert file.load() == known
        assert file.path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["membership"]


def test_a_file_others_may_use_is_refused(tmp_path: Path) -> None:
    file = MembershipFile(tmp_path)
    file.save(KNOWN)
    file.path.chmod(0o640)
    with pytest.raises(StartError, match="others may use it") as refused:
        file.load()
    assert "chmod 600" in refused.value.hint


@pytest.mark.parametrize("content", [b"", b"\xa0", b"\xff" * 100, bytes(1 << 17)])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = MembershipFile(tmp_path)
    file.save(KNOWN)
    file.path.write_bytes(content)
    with pytest.raises(StartError, match="damaged") as refused:
        file.load()
    # Without it a bucket takes its present key for its name.
    assert "never changed its key" in refused.value.hint


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "membership").mkdir()
    with pytest.raises(StartError):
        MembershipFile(tmp_path).load()


def test_a_draft_that_a_crash_left_is_no_harm(tmp_path: Path) -> None:
    file = MembershipFile(tmp_path)
    file.save(KNOWN)
    (tmp_path / "membership.new").write_bytes(b"half")
    assert file.load() == KNOWN
    file.save(replace(KNOWN, epoch=3))
    assert file.load().epoch == 3


# --- talking with the index ---------------------------------------------------------------------


class Script:
    """A link whose calls are answered from a list."""

    def __init__(self, *answers: Message | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []

    async def call(self, request: Request) -> Reply:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Reply(answer)


def told(epoch: int, state: str = "approved", key: KeyPair = INDEX) -> mb.SignedRoster:
    bucket = RosterBucket(BUCKET, BUCKET, state)
    roster = Roster(CLUSTER, epoch, 0, (RosterKey(INDEX.principal),), (bucket,))
    return mb.SignedRoster(sign_roster(key, roster))


@pytest.fixture
def belonging(tmp_path: Path) -> Callable[..., Belonging]:
    def make(
        remembered: Remembered | None = None,
        token: JoinToken | None = None,
        key: Principal = BUCKET,
        changes: Sequence[mb.ChangeBucketKey] = (),
    ) -> Belonging:
        place = IndexPlace(INDEX.principal, "index.test:7101", token)
        file = MembershipFile(tmp_path)
        return Belonging(
            place,
            BUCKET,
            key,
            CLUSTER,
            remembered,
            file,
            InlineWorker(),
            lambda: 0.0,
            changes=changes,
        )

    return make


async def test_a_known_bucket_shows_no_token(belonging, tmp_path: Path) -> None:
    link, here = Script(told(5)), belonging(token=TOKEN)
    await here.enter(link)
    assert link.asked == [mb.GetRoster(0, 0)]
    assert here.epoch == 5
    assert MembershipFile(tmp_path).load() == replace(
        KNOWN, epoch=5, keys=(RosterKey(INDEX.principal),), roster=told(5).roster
    )


async def test_an_unknown_one_joins_and_waits_for_approval(belonging) -> None:
    link = Script(
        NotAuthorizedError(), mb.Standing("pending"), told(5, "pending"), told(6, "approved")
    )
    here = belonging(token=TOKEN)
    await here.enter(link)
    assert link.asked == [
        mb.GetRoster(0, 0),
        mb.Join(TOKEN.invite_id, TOKEN.secret),
        mb.GetRoster(0, 0),
        mb.GetRoster(5, mb.ROSTER_WAIT_MS_MAX),
    ]
    assert here.checks() == {"membership": ""}


async def test_an_unknown_one_without_a_token_is_refused(belonging) -> None:
    here = belonging()
    with pytest.raises(NotAuthorizedError):
        await here.enter(Script(NotAuthorizedError()))
    assert "bucket ls" in here.checks()["membership"]
    await here.enter(Script(told(5)))
    assert here.checks() == {"membership": ""}


async def test_a_refused_token_is_told(belonging, tmp_path: Path) -> None:
    here = belonging(token=TOKEN)
    with pytest.raises(TokenInvalidError):
        await here.enter(Script(NotAuthorizedError(), TokenInvalidError("used")))
    assert "used" in here.checks()["membership"]
    assert MembershipFile(tmp_path).load() is None


async def test_a_refused_secret_is_not_shown_again(belonging) -> None:
    """Whoever copied it wrong would use the token up before its bearer can look at the line."""
    here = belonging(token=TOKEN)
    with pytest.raises(TokenInvalidError):
        await here.enter(Script(NotAuthorizedError(), TokenInvalidError("have a new one made")))
    for _ in range(3):
        link = Script(NotAuthorizedError("not a member"))
        with pytest.raises(NotAuthorizedError, match="not a member"):
            await here.enter(link)
        assert link.asked == [mb.GetRoster(0, 0)]
    assert here.checks()["membership"].endswith(
        "have a new one made, put its line into the config, and start again"
    )
    # It may be let in otherwise, by the index's config.
    await here.enter(Script(told(5)))
    assert here.checks() == {"membership": ""}


@pytest.mark.parametrize("refusal", [BusyError("full"), NotAuthorizedError("revoked")])
async def test_a_secret_is_shown_again_when_something_else_was_refused(belonging, refusal) -> None:
    here = belonging(token=TOKEN)
    with pytest.raises(type(refusal)):
        await here.enter(Script(NotAuthorizedError(), refusal))
    await here.enter(Script(NotAuthorizedError(), mb.Standing("approved"), told(5)))


KEY_CHANGES = mb.ChangeBucketKey(b"1", b"2"), mb.ChangeBucketKey(b"2", b"3")


async def test_a_bucket_shows_its_changes_of_keys_to_an_index_that_lost_them(belonging) -> None:
    for refusal in (NotAuthorizedError(), TokenInvalidError()):
        here = belonging(KNOWN, TOKEN, OTHER.principal, KEY_CHANGES)
        link = Script(NotAuthorizedError(), refusal, mb.KeyChanged(0), told(5))
        await here.enter(link)
        assert link.asked == [mb.GetRoster(0, 0), *KEY_CHANGES, mb.GetRoster(0, 0)]


async def test_a_bucket_that_changed_its_key_does_not_join_under_it(belonging) -> None:
    for changes in ((), KEY_CHANGES):
        here = belonging(KNOWN, TOKEN, OTHER.principal, changes)
        link = Script(*[NotAuthorizedError("unknown")] * (1 + len(changes)))
        with pytest.raises(NotAuthorizedError, match="unknown"):
            await here.enter(link)
        assert link.asked == [mb.GetRoster(0, 0), *changes]


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_a_bucket_that_was_not_started_again_in_time_says_so(belonging, token) -> None:
    here = belonging(token=token)
    entry = RosterBucket(BUCKET, OTHER.principal, "approved", old_key=BUCKET, old_until=9)
    roster = Roster(CLUSTER, 5, 0, (RosterKey(INDEX.principal),), (entry,))
    await here.enter(Script(mb.SignedRoster(sign_roster(INDEX, roster))))
    assert here.checks() == {"membership": ""}
    link = Script(NotAuthorizedError())
    with pytest.raises(NotAuthorizedError):
        await here.enter(link)
    assert "start it again" in here.checks()["membership"]
    assert len(link.asked) == 1


async def test_a_newer_roster_that_is_remembered_does_not_keep_a_bucket_pending(belonging) -> None:
    """Un-named and named again by the config of an index that was set back: who decides is that."""
    here = belonging()
    link = Script(told(9, "pending"), told(8, "approved"))
    await here.enter(link)
    assert here.epoch == 9
    assert "older" in here.checks()["membership"]


async def test_a_roster_of_another_signer_is_refused(belonging, tmp_path: Path) -> None:
    with pytest.raises(TokenInvalidError):
        await belonging().enter(Script(told(5, key=OTHER)))
    assert MembershipFile(tmp_path).load() is None


async def test_a_key_that_another_one_follows_signs_no_rosters(belonging) -> None:
    """Nor could a bucket ever get away from whoever stole it."""
    here = belonging()

    def keys(epoch: int, signer: KeyPair, *keys: RosterKey) -> mb.SignedRoster:
        return mb.SignedRoster(sign_roster(signer, Roster(CLUSTER, epoch, 0, keys, ())))

    both = RosterKey(INDEX.principal), RosterKey(OTHER.principal)
    over = RosterKey(OTHER.principal), RosterKey(INDEX.principal, 1000)
    await here.enter(Script(keys(5, INDEX, *both)))
    await here.enter(Script(keys(6, OTHER, *over)))
    with pytest.raises(TokenInvalidError):
        await here.enter(Script(keys(1 << 40, INDEX, both[0])))
    await here.enter(Script(keys(7, OTHER, both[1])))
    assert here.epoch == 7
    assert here.index_keys() == (OTHER.principal,)


async def test_b59_an_older_roster_is_refused_and_the_newer_kept(belonging, tmp_path) -> None:
    newest = replace(KNOWN, epoch=9, roster=told(9).roster)
    MembershipFile(tmp_path).save(newest)
    here = belonging(newest)
    link = Script(told(8, "pending"), told(10))
    await here.enter(link)
    assert here.epoch == 9
    assert "older" in here.checks()["membership"]
    assert MembershipFile(tmp_path).load() == newest
    with pytest.raises(IndexError):
        await here.follow(link)
    # What follows the one told: a question for any other would be answered at once, for ever.
    assert link.asked[1] == mb.GetRoster(8, mb.ROSTER_WAIT_MS_MAX)
    assert here.epoch == 10
    assert here.checks() == {"membership": ""}


async def test_a_full_disk_does_not_stop_the_work(belonging, monkeypatch) -> None:
    here = belonging()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(here._file, "save", full)
    await here.enter(Script(told(5)))
    assert here.epoch == 5
    assert "No space" in here.checks()["membership"]
    monkeypatch.undo()
    link = Script(told(5))
    await here.enter(link)
    assert here._file.load().epoch == 5
    assert here.checks() == {"membership": ""}
    monkeypatch.setattr(here._file, "save", full)
    await here.enter(Script(told(6)))
    monkeypatch.undo()
    await here.enter(Script(told(6)))
    assert here._file.load().epoch == 6


async def test_the_key_of_another_bucket_does_not_pass_for_ones_own(belonging) -> None:
    """A key file that was mixed up: the index would take this bucket's events for another's."""
    here = belonging(token=TOKEN)
    other = RosterBucket(Principal(b"o" * 32), BUCKET, "approved")
    roster = Roster(CLUSTER, 5, 0, (RosterKey(INDEX.principal),), (other,))
    link = Script(mb.SignedRoster(sign_roster(INDEX, roster)))
    with pytest.raises(NotAuthorizedError, match="another bucket"):
        await here.enter(link)
    assert len(link.asked) == 1  # nor does it join under that key
    assert "key_file" in here.checks()["membership"]


def test_the_keys_of_the_index_take_turns_until_one_answers(belonging) -> None:
    keys = (RosterKey(INDEX.principal), RosterKey(OTHER.principal, 10), RosterKey(BUCKET, 0))
    here = belonging(replace(KNOWN, keys=keys))
    first, second, third = INDEX.principal, OTHER.principal, BUCKET
    assert here.index_keys() == (first, second, third)
    assert [here.expected() for _ in range(4)] == [first, second, third, first]
    assert here.expected() == second
    here.reached()
    assert [here.expected() for _ in range(2)] == [second, third]
    assert counting(keys, 10) == (first, second, third)
    assert counting(keys, 10.5) == (first, third)
    assert belonging().index_keys() == (INDEX.principal,)


def test_a_config_may_name_the_index_by_any_of_its_keys() -> None:
    known = replace(KNOWN, keys=(RosterKey(OTHER.principal), RosterKey(INDEX.principal, 5)))
    for key in (INDEX, OTHER):
        assert found(known, index=key.principal, index_peer="there:1").index == key.principal
    with pytest.raises(StartError, match="another index"):
        found(known, index=BUCKET, index_peer="there:1")


async def test_an_answer_of_another_kind_is_refused(belonging) -> None:
    with pytest.raises(InternalError):
        await belonging().enter(Script(m.Ok()))

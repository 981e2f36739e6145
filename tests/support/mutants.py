"""The store with one thing left out or done in the wrong order, and the proof that must notice.

Each mutant is a few lines in place of the store's own, put there with `monkeypatch`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import pytest
import trio
from typing_extensions import Buffer, override

from ostnode.store import recovery, scan
from ostnode.store.disk import File
from ostnode.store.format import FOOTER_ENTRY_BYTES, RECORD_HEADER_BYTES, Trailer
from ostnode.store.keyspace import Covered
from ostnode.store.log import Log
from ostnode.store.reading import SegmentReader
from ostnode.store.scan import Found, Judged
from ostnode.store.segment import SegmentWriter, read, read_footer
from ostnode.store.simdisk import SimDisk, SimFile
from ostnode.store.staging import Batch
from ostnode.store.writer import GroupCommit
from tests.support.crashstates import Survey, Tally, failed_syncs, recoveries, survey
from tests.support.damagekit import INDEXES, judge, known

Patch = pytest.MonkeyPatch
FLIPS = 150
PLAN = Survey(lives=2, groups=4, power_cuts=6)


class _Instead:
    """Another object with some of its attributes replaced."""

    def __init__(self, of: object, **replaced: object) -> None:
        self.__dict__.update(replaced)
        self._of = of

    def __getattr__(self, name: str) -> object:
        return getattr(self._of, name)


class EqualToAll(bytes):
    """A digest that matches whatever it is compared with."""

    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def fsync_dropped(patch: Patch) -> None:
    """A batch is not synced before it is acknowledged."""
    _append_with(patch, lambda file: lambda: None)


def fsync_retried(patch: Patch) -> None:
    """A failed sync is tried again, and believed the second time."""

    def retrying(file: File) -> Callable[[], None]:
        def sync() -> None:
            try:
                file.sync()
            except OSError:
                file.sync()

        return sync

    _append_with(patch, retrying)


def _append_with(patch: Patch, sync_of: Callable[[File], Callable[[], None]]) -> None:
    append = SegmentWriter.append

    def instead(self: SegmentWriter, *args: object) -> None:
        file = self._file
        self._file = _Instead(file, sync=sync_of(file))
        try:
            append(self, *args)
        finally:
            self._file = file

    patch.setattr(SegmentWriter, "append", instead)


def early_acknowledgement(patch: Patch) -> None:
    """Whoever waits for a batch is told before it is durable."""

    async def wait(self: GroupCommit, batch: Batch) -> None:
        await trio.lowlevel.checkpoint()
        self.check_open()

    patch.setattr(GroupCommit, "wait", wait)


def directory_fsync_forgotten(patch: Patch) -> None:
    """Names of files are never made durable."""
    patch.setattr(SimDisk, "sync_names", lambda self: None)


def checksum_skipped(patch: Patch) -> None:
    """Recovery takes any payload behind a valid header for whole."""
    for module in (scan, recovery):
        patch.setattr(module, "payload_digest", lambda payload: EqualToAll())


def reads_not_verified(patch: Patch) -> None:
    """Bytes leave without a look at their digest."""
    init = SegmentReader.__init__

    def instead(self: SegmentReader, *args: object, **options: object) -> None:
        init(self, *args, **{**options, "verify": False})

    patch.setattr(SegmentReader, "__init__", instead)


def footer_trusted_blindly(patch: Patch) -> None:
    """A footer is believed without its digest."""

    def instead(file: File, trailer: Trailer) -> bytes | None:
        length = trailer.entries * FOOTER_ENTRY_BYTES
        data = read(file, trailer.seal_offset + RECORD_HEADER_BYTES, length)
        return data if len(data) == length else None

    _everywhere(patch, read_footer, instead)


def _everywhere(patch: Patch, function: object, instead: object) -> None:
    """In every module of the store that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("ostnode.store.") and function in vars(module).values():
            patch.setattr(module, function.__name__, instead)


class _SyncedByTheSeal(SimFile):
    """A file whose next sync is left out, until it is written again."""

    written = False

    @override
    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        super().write(offset, buffers)
        self.written = True

    @override
    def sync(self) -> None:
        if self.written:
            super().sync()


def seal_before_sync(patch: Patch) -> None:
    """Recovery seals a segment before what it cut and wrote again is durable."""
    write_again = recovery._write_again

    def instead(file: SimFile, start: int, end: int) -> None:
        write_again(file, start, end)
        file.__class__ = _SyncedByTheSeal

    patch.setattr(recovery, "_write_again", instead)


def index_ahead_of_the_log(patch: Patch) -> None:
    """A batch is in the key index before it is in the log."""
    write = Log.write

    def instead(self: Log, batch: Batch) -> None:
        if batch.changes and self._segment is not None:
            uuid = self._segment.header.uuid
            self._index.commit(batch.changes, Covered(batch.segment, uuid, batch.number))
        write(self, batch)

    patch.setattr(Log, "write", instead)


def batch_end_ignored(patch: Patch) -> None:
    """A last batch without its end counts."""
    patch.setattr(scan, "_whole", lambda tail: all(isinstance(i, Found) and i.whole for i in tail))


def torn_tail_kept(patch: Patch) -> None:
    """Whatever stands at the end of the log counts."""
    judge = recovery.judge

    def instead(items: list, first_batch: int) -> Judged:
        judged = judge(items, first_batch)
        kept = items[:-1] if items and scan._is_seal(items[-1]) else items
        return Judged(kept, judged.last, kept[-1].end if kept else judged.end)

    patch.setattr(recovery, "judge", instead)


Proof = Callable[[int], Tally]


def crashes(seed: int) -> Tally:
    """Every place to crash in two lives."""
    return survey(seed, PLAN)


def crashed_recoveries(seed: int) -> Tally:
    """Every place to crash in recoveries."""
    return recoveries(seed, PLAN)


def each_sync_fails(seed: int) -> Tally:
    """One life per sync that fails."""
    return failed_syncs(seed, PLAN)


def flipped_bits(seed: int) -> Tally:
    """Single bits of payloads, of footers and of anything, by turns."""
    log, rng, tally = known(), Random(seed), Tally()
    payloads = [region for region in log.regions if region.what.endswith("payload")]
    footers = [region for region in log.regions if region.what == "footer"]
    for number in range(FLIPS):
        region = rng.choice((payloads, footers, log.regions)[number % 3])
        offset, mask = rng.randrange(region.start, region.end), bytes([1 << rng.randrange(8)])
        tally.states += 1
        try:
            judge(log, region.segment, offset, mask, rng.choice(INDEXES))
        except Exception as error:  # noqa: BLE001  a start that fails is as bad
            tally.broken.append(f"{seed} flip {number}: {str(error).splitlines()[0]}")
    return tally


PROOFS: list[Proof] = [crashes, crashed_recoveries, each_sync_fails, flipped_bits]


@dataclass(frozen=True)
class Mutant:
    """What is wrong, and the proof that notices."""

    apply: Callable[[Patch], None]
    proof: Proof


MUTANTS = [
    Mutant(fsync_dropped, crashes),
    Mutant(early_acknowledgement, crashes),
    Mutant(directory_fsync_forgotten, crashes),
    Mutant(checksum_skipped, crashes),
    Mutant(footer_trusted_blindly, crashes),
    Mutant(seal_before_sync, crashed_recoveries),
    Mutant(index_ahead_of_the_log, crashes),
    Mutant(batch_end_ignored, crashes),
    Mutant(torn_tail_kept, crashes),
    Mutant(fsync_retried, each_sync_fails),
    Mutant(checksum_skipped, flipped_bits),
    Mutant(footer_trusted_blindly, flipped_bits),
    Mutant(reads_not_verified, flipped_bits),
]

"""`ostnode store`: look into a bucket's data directory, and check it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from ostnode.cli.failures import CommandError, ExitCode
from ostnode.cli.output import Output, Value, json_option, pass_output
from ostnode.cli.progress import bars
from ostnode.cli.storetext import (
    inspection_text,
    line_json,
    problem_json,
    segment_json,
    totals_json,
)
from ostnode.cli.verifytext import accessors_of, verified_json, verified_text
from ostnode.roles.bucket.schema import BucketSchema
from ostnode.store.disk import Disk, RealDisk
from ostnode.store.errors import NotAFileError, StoreLockedError, StoreOwnerError
from ostnode.store.indexview import IndexView
from ostnode.store.inspection import Inspected, Inspector, Line, LooseFile, lock_holder
from ostnode.store.keyspace import Covered, DurableReader, Reader
from ostnode.store.layout import Layout, read_layout
from ostnode.store.record import Damage
from ostnode.store.segment import read_header, segment_name, segment_number
from ostnode.store.verification import Progress, Verified, Verifier

_RECORDS_MAX = 10_000
_NO_DIRECTORY = (
    "name a bucket's data directory (data_dir in its config); `inspect` takes a .seg file too"
)


@click.group()
def store() -> None:
    """Look into a bucket's data directory, and check it."""


@store.command("inspect")
@click.argument("path", type=click.Path(readable=False, path_type=Path))
@click.option("--records", is_flag=True, help="List records too.")
@click.option("--after", type=click.IntRange(0), default=0, help="List those after this sequence.")
@click.option(
    "--limit",
    type=click.IntRange(1, _RECORDS_MAX),
    default=50,
    show_default=True,
    help="List at most so many.",
)
@json_option
@pass_output
def inspect(output: Output, *, path: Path, records: bool, after: int, limit: int) -> None:
    """Show the segments in PATH, a bucket's data directory or one .seg file.

    Nothing is written and nothing is locked: the bucket may be running. Live and dead bytes are
    unknown where the key index beside the segments cannot be read. Chunks are not read:
    `ostnode store verify` does that.
    """
    page = _Page(after, limit)
    disk, layout = _files(path)
    data_dir = path if path.is_dir() else path.absolute().parent.parent
    with _rows(data_dir) as rows:
        inspector = Inspector(BucketSchema(), rows, page.add if records else None)
        segments = list(_segments(disk, layout, inspector))
    # Where a file stands alone, it is no matter what comes before it.
    problems = [one for one in layout.problems() if path.is_dir() or one.what is not Damage.GAP]
    data: dict[str, Value] = {
        "path": str(path),
        "in_use_by": lock_holder(data_dir),
        "bucket": next((item["bucket"] for item in segments if item["bucket"]), None),
        "key_index": "unknown" if rows is None else "read",
        "segments": segments,
        "problems": [problem_json(one) for one in problems],
        "totals": totals_json(segments, len(problems)),
    }
    if records:
        data["records"] = [line_json(line) for line in page.lines]
        data["more"] = page.more
    output.result(data, inspection_text(data))


@store.command("verify")
@click.argument("data_dir", type=click.Path(readable=False, path_type=Path))
@click.option(
    "--rebuild-index",
    is_flag=True,
    help="Put a key index made from the log in the place of one that differs.",
)
@json_option
@pass_output
def verify(output: Output, *, data_dir: Path, rebuild_index: bool) -> None:
    """Check everything in DATA_DIR, the data directory of a bucket that is stopped.

    Every record is read, and the key index is compared with one made from the log; that takes as
    much space again as the key index, for a while. The log is never changed: what the next start
    will repair is told, and is no damage. Exit 0 when there is none, 7 otherwise.
    """
    _layout(data_dir)
    disk = RealDisk(data_dir)
    try:
        disk.lock()
    except StoreLockedError as error:
        raise CommandError(str(error), "stop the node first, or use `store inspect`") from None
    try:
        with _progress(quiet=output.as_json) as progress:
            verifier = Verifier(data_dir, BucketSchema(), accessors_of, progress)
            found = verifier.run(replace=rebuild_index)
    except StoreOwnerError as error:
        hint = "move what is another bucket's out of it; `store inspect FILE` says whose a file is"
        raise CommandError(str(error), hint, ExitCode.INTEGRITY) from None
    finally:
        disk.unlock()
    output.result(verified_json(data_dir, found), verified_text(found))
    cured = found.rows_differing + found.index_damaged if found.is_replaced else 0
    damaged = found.finding_count - cured
    if damaged:
        raise CommandError(f"damage found: {damaged}", _remedy(found), ExitCode.INTEGRITY)


def _remedy(found: Verified) -> str:
    if any(finding.problem for finding in found.findings):
        return "a bucket that is started serves the rest; uploading a damaged blob again heals it"
    return "--rebuild-index puts a key index made from the log in its place"


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """How far the log has been read, on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with bars(Console(stderr=True)) as drawn:
        task = drawn.add_task("checking")
        yield lambda done, total: drawn.update(task, completed=done, total=total)


class _Page:
    """The first records behind a sequence number."""

    def __init__(self, after: int, limit: int) -> None:
        self._after, self._limit = after, limit
        self.lines: list[Line] = []
        self.more = False

    def add(self, line: Line) -> None:
        """Called with each record in the order of the log."""
        if line.header.seq > self._after:
            if len(self.lines) < self._limit:
                self.lines.append(line)
            else:
                self.more = True


@contextmanager
def _rows(data_dir: Path) -> Iterator[Reader | None]:
    """The key space as far as the key index has followed the log; None when it cannot be read."""
    view = IndexView(data_dir / "keyindex")
    try:
        covered = view.open()
        is_of_it = covered is not None and _has_followed(covered, RealDisk(data_dir))
        yield DurableReader(view) if is_of_it else None
    finally:
        view.close()


def _has_followed(covered: Covered, disk: Disk) -> bool:
    """Whether a key index is of this very log, and not of another bucket's."""
    try:
        file = disk.open(segment_name(covered.segment))
    except FileNotFoundError:
        return False
    try:
        header = read_header(file)
    finally:
        file.close()
    return header is not None and header.uuid == covered.uuid


def _files(path: Path) -> tuple[Disk, Layout]:
    """The segments that PATH means."""
    if path.is_dir():
        layout = _layout(path)
        # A compaction may have swapped files under the first look.
        return RealDisk(path), _layout(path) if layout.problems() else layout
    if not path.exists():
        raise CommandError(f"{path} does not exist", _NO_DIRECTORY, ExitCode.USAGE)
    if segment_number(path.name) is None:
        raise CommandError(f"{path} is no segment", _NO_DIRECTORY, ExitCode.USAGE)
    disk = LooseFile(path)
    return disk, read_layout(disk)


def _segments(disk: Disk, layout: Layout, inspector: Inspector) -> Iterator[dict[str, Value]]:
    for number, state in _states(layout).items():
        found = _inspect(disk, number, inspector)
        if found is not None:
            yield segment_json(segment_name(number), state, *found)


def _layout(data_dir: Path) -> Layout:
    if not data_dir.exists():
        raise CommandError(f"{data_dir} does not exist", _NO_DIRECTORY, ExitCode.USAGE)
    if not (data_dir / "segments").is_dir():
        raise CommandError(f"{data_dir} holds no segments", _NO_DIRECTORY, ExitCode.USAGE)
    return read_layout(RealDisk(data_dir))


def _states(layout: Layout) -> dict[int, str]:
    """What each segment is to the log; those that count first, in its order."""
    states = {
        file.number: "open" if file.trailer is None and file is layout.log[-1] else "sealed"
        for file in layout.log
    }
    states |= {file.number: "leftover" for file in layout.leftovers}
    states |= dict.fromkeys(layout.unfinished, "unfinished")
    states |= dict.fromkeys(layout.blank, "blank")
    return states | {number: "lost" for number, _ in layout.lost}


def _inspect(disk: Disk, number: int, inspector: Inspector) -> tuple[Inspected, int, int] | None:
    """A segment's sums, size and bytes on the disk; None when there is no such file."""
    try:
        file = disk.open(segment_name(number))
    except (FileNotFoundError, NotAFileError):
        return None
    try:
        return inspector.inspect(file, number), file.size(), file.allocated()
    finally:
        file.close()

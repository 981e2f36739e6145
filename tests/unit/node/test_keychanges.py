"""The changes of keys that a bucket keeps, to show them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostnode.node import keychanges as k
from ostnode.wire.fields import TOKEN_BYTES_MAX
from ostnode.wire.membership import ChangeBucketKey


def change(number: int) -> ChangeBucketKey:
    return ChangeBucketKey(bytes([number]) * TOKEN_BYTES_MAX, bytes([255 - number]))


def test_the_last_ones_are_kept_in_order(tmp_path: Path) -> None:
    assert k.load_changes(tmp_path) == ()
    for number in range(k.KEPT + 2):
        k.keep_change(tmp_path, change(number))
    assert k.load_changes(tmp_path) == tuple(map(change, range(2, k.KEPT + 2)))
    assert (tmp_path / "key-changes").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["key-changes"]


def test_one_that_is_kept_already_is_kept_once_as_the_last(tmp_path: Path) -> None:
    for number in (1, 2, 2, 1):
        k.keep_change(tmp_path, change(number))
    assert k.load_changes(tmp_path) == (change(2), change(1))


@pytest.mark.parametrize("content", [b"", b"\xff" * 9, bytes(1 << 17)])
def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key-changes").write_bytes(content)
    assert k.load_changes(tmp_path) == ()
    k.keep_change(tmp_path, change(1))
    assert k.load_changes(tmp_path) == (change(1),)


def test_neither_is_a_directory_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "key-changes").mkdir()
    assert k.load_changes(tmp_path) == ()

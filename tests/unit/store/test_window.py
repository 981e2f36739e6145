"""Bounded reads of a segment through one buffer."""

from __future__ import annotations

import pytest

from ostnode.store.scan import Window
from ostnode.store.simdisk import SimDisk, SimFile

DATA = bytes(range(100))


@pytest.fixture
def file() -> SimFile:
    opened = SimDisk().open("x", create=True)
    opened.write(0, [DATA])
    return opened


def test_bytes_come_from_anywhere_in_any_order(file: SimFile) -> None:
    window = Window(file, 16)
    for offset in (0, 3, 40, 39, 55, 84, 10, 0):
        assert window.get(offset, 5) == DATA[offset : offset + 5]


def test_the_end_of_the_file_cuts_short_and_shows_nothing_old(file: SimFile) -> None:
    window = Window(file, 64)
    assert window.get(0, 64) == DATA[:64]
    assert window.get(90, 20) == DATA[90:]
    assert window.get(95, 20) == DATA[95:]
    assert window.get(100, 1) == b""
    assert window.get(200, 5) == b""
    assert window.get(8, 4) == DATA[8:12]


def test_what_is_longer_than_the_window_is_read_whole(file: SimFile) -> None:
    window = Window(file, 16)
    assert window.get(10, 60) == DATA[10:70]
    assert window.get(12, 3) == DATA[12:15]

from __future__ import annotations

import json

import pytest

from ostnode.cli.output import json_text, lines_of, size_text, table, time_text
from ostnode.cli.progress import PlainProgress
from ostnode.client import Phase, Progress


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB (1024 B)"),
        (64 << 20, "64.0 MiB (67108864 B)"),
        (1 << 62, "4096.0 PiB (4611686018427387904 B)"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


def test_times() -> None:
    assert time_text(0) == "never"
    assert time_text(1_700_000_000) == "2023-11-14 22:13:20 UTC"


def test_values_stand_in_one_column() -> None:
    data = {"a": 1, "long_name": None, "on": True, "off": False, "list": ["x", "y"], "none": []}
    assert lines_of(data).splitlines() == [
        "a          1",
        "long name  -",
        "on         yes",
        "off        no",
        "list       x",
        "           y",
        "none       -",
    ]


def test_nested_values_are_named_by_both() -> None:
    assert lines_of({"space": {"free": 1, "total": 2}}) == "space free   1\nspace total  2"


@pytest.mark.parametrize("sign", ["\x1b", "\n", "\r", "\x07", "\x7f", "\x9b", "\u202e", "\udc80"])
def test_what_a_terminal_would_obey_is_shown_as_an_escape(sign: str) -> None:
    cell = f"http://a{sign}[2Jb"
    for text in (table([["x", cell], ["y", ""]]), lines_of({"address": cell, "list": [cell]})):
        assert len(text.split("\n")) == 2
        assert all(line.isprintable() for line in text.split("\n"))
    told = json_text({"address": cell, "name": "José"})
    assert told.isprintable()
    assert json.loads(told) == {"address": cell, "name": "José"}
    assert "José" in json_text({"name": "José"})


def test_an_empty_table_is_nothing() -> None:
    assert table([]) == ""


def test_plain_progress_speaks_every_quarter_of_a_phase() -> None:
    lines: list[str] = []
    show = PlainProgress("cat.png", lines.append)
    for done in (1, 2, 4):
        show(Progress(Phase.HASH, done, 4))
    for done in range(0, 101, 5):
        show(Progress(Phase.PUSH, done, 100))
    show(Progress(Phase.PUSH, 100, 100))
    assert lines == [
        "hashing cat.png: 100 %",
        "sending cat.png: 0 %",
        "sending cat.png: 25 %",
        "sending cat.png: 50 %",
        "sending cat.png: 75 %",
        "sending cat.png: 100 %",
    ]


def test_an_empty_file_is_done_at_once() -> None:
    lines: list[str] = []
    PlainProgress("empty", lines.append)(Progress(Phase.PUSH, 0, 0))
    assert lines == ["sending empty: 100 %"]

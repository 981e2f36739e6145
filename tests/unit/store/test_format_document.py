"""docs/segment-format.md says what the code does."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from ostnode.roles.bucket.records import RESERVED_KINDS, Kind
from ostnode.store import format as f

DOCUMENT = (Path(__file__).parents[3] / "docs/segment-format.md").read_text()
TABLES = {
    "Segment header": f._SEGMENT,
    "Record header": f._RECORD,
    "Footer entry": f._ENTRY,
    "Trailer": f._TRAILER,
}


def table(title: str) -> list[tuple[int, int]]:
    """Offset and length of every field."""
    section = DOCUMENT.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]
    return [
        (int(at), int(size))
        for at, size in re.findall(r"^\| (\d+) \| (\d+) \|", section, re.MULTILINE)
    ]


@pytest.mark.parametrize("title", TABLES)
def test_a_tables_fields_are_those_of_the_code(title: str) -> None:
    packed = TABLES[title]
    sizes = [struct.calcsize(f">{field}") for field in re.findall(r"\d*[a-zA-Z]", packed.format)]
    assert [size for _, size in table(title)] == sizes
    at = 0
    for offset, size in table(title):
        assert offset == at
        at += size
    assert at == packed.size


def test_it_names_every_size_and_kind() -> None:
    assert f"{f._SEGMENT.size} bytes stand at 0 and again at {f._SECOND_COPY_AT}" in DOCUMENT
    for title, size in (
        ("Segment header", f.SEGMENT_HEADER_BYTES),
        ("Record header", f.RECORD_HEADER_BYTES),
        ("Footer entry", f.FOOTER_ENTRY_BYTES),
        ("Trailer", f.TRAILER_BYTES),
    ):
        assert re.search(rf"^## {title}: {size} bytes", DOCUMENT, re.MULTILINE)
    assert f._KEY_CONTEXT in DOCUMENT
    kinds = " ".join(DOCUMENT.split("## The bucket's records")[1].split("\n## ")[0].split())
    assert all(f"{int(kind)} {kind.name.lower()}" in kinds for kind in Kind)
    assert all(f"{kind} {name}" in kinds for kind, name in RESERVED_KINDS.items())
    assert RESERVED_KINDS.keys().isdisjoint(Kind)

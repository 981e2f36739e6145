"""Files that this version of the format wrote stay readable, and are what is written today.

When a test here fails, the format on disk has changed: data directories in use would be misread.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ostnode.cli.verifytext import accessors_of
from ostnode.roles.bucket.payloads import KINDS, decode_payload, encode_payload
from ostnode.roles.bucket.records import Kind
from ostnode.roles.bucket.schema import BucketSchema
from ostnode.store.format import FORMAT_VERSION
from ostnode.store.verification import Verifier
from tests.support.golden import build, parse, shown

GOLDEN = Path(__file__).parent / "golden"
PAYLOADS = json.loads((GOLDEN / "payloads.json").read_text())
SEGMENTS = json.loads((GOLDEN / "segments.json").read_text())


@pytest.mark.parametrize("segment", SEGMENTS, ids=lambda segment: segment["file"])
def test_a_golden_segment_says_what_it_said(segment: dict) -> None:
    assert parse(segment["file"], (GOLDEN / segment["file"]).read_bytes()) == segment


def test_the_same_is_written_today() -> None:
    made = build(PAYLOADS)
    assert sorted(made) == [segment["file"] for segment in sorted(SEGMENTS, key=_file)]
    for name, data in made.items():
        assert data == (GOLDEN / name).read_bytes(), name


def _file(segment: dict) -> str:
    return segment["file"]


@pytest.mark.parametrize("row", PAYLOADS, ids=lambda row: row["name"].lower())
def test_a_golden_payload_means_what_it_meant(row: dict) -> None:
    payload = decode_payload(row["kind"], bytes.fromhex(row["payload"]))
    assert Kind(row["kind"]).name == row["name"]
    # A field that came later is absent, and means that.
    said = {name: value for name, value in shown(payload).items() if value is not None}
    assert said == {name: value for name, value in row["fields"].items() if value is not None}
    assert encode_payload(payload).hex() == row["payload"]


def test_every_kind_has_a_golden_payload() -> None:
    missing = {kind.name for kind in KINDS.values()} - {row["name"] for row in PAYLOADS}
    assert not missing, "run `python -m tests.compat.write_golden`, and commit what it adds"


def test_the_golden_files_cover_the_format() -> None:
    states = {(bool(item["trailer"]), item["header"]["generation"] > 0) for item in SEGMENTS}
    assert states == {(True, False), (True, True), (False, False)}
    assert {item["header"]["version"] for item in SEGMENTS} == {FORMAT_VERSION}
    records = [record for item in SEGMENTS for record in item["records"]]
    assert {record["flags"] for record in records} == {0, 1, 2, 3}
    assert {record["whole"] for record in records} == {True, False}
    kinds = {record["kind"] for record in records}
    assert kinds >= set(range(1, 20)) | {200, 201}


def test_the_golden_log_is_in_order(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    for segment in SEGMENTS:
        shutil.copy(GOLDEN / segment["file"], tmp_path / "segments")
    found = Verifier(tmp_path, AllLive(), accessors_of, lambda _done, _total: None).run()
    assert not found.findings
    assert found.segments == len(SEGMENTS)
    assert len([note for note in found.notes if "never whole" in note]) == 1


class AllLive(BucketSchema):
    """The samples do not fit together: nothing is made of them."""

    def reduce(self, record: object, rows: object) -> None:
        pass

"""docs/protocol.md shows what the code does: its tables and its worked session."""

from __future__ import annotations

import re

import pytest

from ostnode.wire import incoming as i
from ostnode.wire.session import FrameKind, Side
from tests.support.vectors import connection
from tests.support.wire_peers import feed
from tests.support.worked import DOCUMENT, calls_table, example, session, states_table

TEXT = DOCUMENT.read_text()
HOW = "take it from `python -m tests.support.worked`"


@pytest.mark.parametrize(
    "made", [states_table, calls_table, example], ids=lambda made: made.__name__
)
def test_what_the_document_shows_is_what_the_code_does(made) -> None:
    assert made() in TEXT, f"docs/protocol.md must have this; {HOW}:\n\n{made()}"


def frames_in_the_document() -> list[tuple[str, bytes]]:
    """Speakers and bytes, as a reader puts them together."""
    block = TEXT.partition("```text\n")[2].partition("```")[0]
    frames = []
    for part in re.split(r"^\d+\. ", block, flags=re.MULTILINE)[1:]:
        title, _, lines = part.partition("\n")
        lines = lines.rpartition("   and says\n")[2]
        data = "".join(line.partition(";")[0] for line in lines.splitlines())
        frames.append((title.partition(":")[0], bytes.fromhex(data)))
    return frames


def test_a_reader_gets_the_session_out_of_the_document() -> None:
    assert frames_in_the_document() == list(session())


def test_the_documents_bytes_are_a_session() -> None:
    """An accepter that has never seen the other code holds it."""
    end, kinds = connection(Side.ACCEPTER), []
    answers = {i.Greeted: end.send_hello, i.Proven: end.send_proof}
    for speaker, frame in frames_in_the_document():
        if speaker == "dialler":
            (event,) = feed(end, frame)
            kinds.append(type(event))
            answers.get(type(event), lambda: None)()
    assert kinds == [
        i.Greeted,
        i.Proven,
        i.RequestReceived,
        i.RequestReceived,
        i.CancelReceived,
        i.PingReceived,
    ]
    shown = {line.split(": ")[1] for line in re.findall(r"^\d+\. \w+: \w+$", TEXT, re.MULTILINE)}
    assert shown == {kind.name for kind in FrameKind}

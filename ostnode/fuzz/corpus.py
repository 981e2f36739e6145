"""Cases as files: the corpus that a search starts from and adds to, and what it found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ostnode.fuzz.cases import Case, CaseError, dump_case, load_case

_RUNNING: Final = "running.json"


class Folder:
    """A directory of case files, `LAYER-DIGEST.json` each; made when the first is saved."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Iterator[Case]:
        """Every case, by name; raises CaseError naming the file."""
        for path in sorted(self.path.glob("*.json")):
            if path.name != _RUNNING:
                yield read_case(path)

    def save(self, case: Case) -> Path:
        """Write the case, unless the same one is there; returns its file."""
        path = self.path / f"{case.layer}-{case.digest}.json"
        if not path.exists():
            self._write(path, case)
        return path

    def begin(self, case: Case) -> None:
        """Keep the case that is about to run: if it kills the process, this file stays."""
        self._write(self.path / _RUNNING, case)

    def end(self) -> None:
        """No case runs any more; a directory that nothing was put into goes."""
        (self.path / _RUNNING).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def _write(self, path: Path, case: Case) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_case(case), "utf-8")


def read_case(path: Path) -> Case:
    """The case in a file; raises CaseError naming it, and OSError."""
    try:
        return load_case(path.read_text("utf-8"))
    except (CaseError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: {error}") from None

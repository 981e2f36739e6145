"""Key files: private, never overwritten, never quoted."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from typing_extensions import override

from ostnode import keyfiles
from ostnode.env import SystemRng
from ostnode.keyfiles import (
    KeyFileError,
    create_key_file,
    load_seed,
    put_in_place,
    successor_of,
)

SEED = bytes(range(32))
CONTENT = f"ost-ed25519-seed:{SEED.hex()}\n"


class FixedRng(SystemRng):
    @override
    def token(self, length: int) -> bytes:
        return SEED[:length]


def private_file(path: Path, content: str) -> Path:
    path.write_text(content, "utf-8")
    path.chmod(0o600)
    return path


def test_what_was_created_is_what_loads(tmp_path: Path) -> None:
    path = tmp_path / "index.key"
    assert create_key_file(path, FixedRng()) == SEED
    assert path.read_text("utf-8") == CONTENT
    assert load_seed(path) == SEED


def test_new_keys_differ(tmp_path: Path) -> None:
    assert create_key_file(tmp_path / "a") != create_key_file(tmp_path / "b")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_the_owner_can_read_it_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        create_key_file(tmp_path / "key")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o7777 == 0o600


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = private_file(tmp_path / "key", "precious")
    with pytest.raises(KeyFileError, match="exists already") as caught:
        create_key_file(path)
    assert path.read_text("utf-8") == "precious"
    assert caught.value.path == path
    assert caught.value.hint


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="directory exists"):
        create_key_file(tmp_path / "absent" / "key")


def test_a_key_is_on_disk_whole_and_then_its_name_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "key", []

    def recording(descriptor: int) -> None:
        file = Path(f"/proc/self/fd/{descriptor}").resolve()
        content = "" if file.is_dir() else file.read_text("utf-8")
        synced.append((content, path.exists(), len(list(tmp_path.iterdir()))))

    monkeypatch.setattr(keyfiles.os, "fsync", recording)
    create_key_file(path, FixedRng())
    # First its bytes, while it has no name of its own; then that, and nothing else is left.
    assert synced == [(CONTENT, False, 1), ("", True, 1)]


def test_a_crash_while_a_key_is_made_leaves_no_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file would be refused for ever: what is there is never overwritten."""

    class Crash(BaseException):
        """Nothing after it is done."""

    def crash(*_: object) -> None:
        raise Crash

    path = tmp_path / "key"
    for name in ("fchmod", "fsync", "link"):
        with monkeypatch.context() as broken:
            broken.setattr(keyfiles.os, name, crash)
            broken.setattr(Path, "unlink", lambda *_, **__: None)
            with suppress(Crash):
                create_key_file(path)
        assert not path.exists()
    create_key_file(path)
    assert load_seed(path)


def test_a_key_whose_name_did_not_become_durable_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(keyfiles, "_sync_directory", failing)
    with pytest.raises(KeyFileError, match="Input/output error"):
        create_key_file(tmp_path / "key")
    assert not list(tmp_path.iterdir())


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  a Path would open one more
    load_seed(private_file(tmp_path / "old", CONTENT))
    create_key_file(tmp_path / "new")
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208


def test_a_key_that_did_not_become_durable_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(keyfiles.os, "fsync", failing)
    with pytest.raises(KeyFileError, match="cannot be created: Input/output error"):
        create_key_file(tmp_path / "key")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o610, 0o644])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = private_file(tmp_path / "key", CONTENT)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode is {mode:04o}") as caught:
        load_seed(path)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "content",
    [
        "",
        SEED.hex(),
        CONTENT[:-2],
        CONTENT.upper(),
        CONTENT + "\n",
        " " + CONTENT,
        CONTENT * 10,
        "ost-ed25519-seed:" + "é" * 64,
    ],
)
def test_a_file_of_another_form_is_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    path = private_file(tmp_path / "key", content)
    with pytest.raises(KeyFileError, match="it holds no key") as caught:
        load_seed(path)
    assert SEED.hex()[:8] not in str(caught.value)


def test_a_file_without_the_last_newline_is_accepted(tmp_path: Path) -> None:
    assert load_seed(private_file(tmp_path / "key", CONTENT.rstrip())) == SEED


def test_an_absent_file_and_a_directory_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="ostnode key gen"):
        load_seed(tmp_path / "absent")
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_seed(tmp_path)


def test_a_named_pipe_does_not_hang_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError):
        load_seed(tmp_path / "pipe")


def test_a_successor_takes_the_place_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    create_key_file(path)
    successor = successor_of(path)
    seed = create_key_file(successor)
    put_in_place(successor, path)
    assert load_seed(path) == seed
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["node.key"]


def test_a_key_that_cannot_be_replaced_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    seed = create_key_file(path)
    with pytest.raises(KeyFileError, match="cannot be replaced"):
        put_in_place(successor_of(path), path)
    assert load_seed(path) == seed

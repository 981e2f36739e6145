"""The changes of keys that a bucket has been through, to be shown to its index again.

An index that was set back to a backup knows the bucket by a key that is gone. What the two keys
signed then still says which one follows: shown in order, it brings the index to the present one.
A file beside the log, which holds no secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import structlog

from ostnode.codec import CBOR_BYTES_MAX
from ostnode.errors import InvalidArgumentError
from ostnode.node.memory import write_private
from ostnode.wire.fields import Bounds, Message
from ostnode.wire.membership import ChangeBucketKey
from ostnode.wire.schema import decode_message, encode_message

FILE_NAME: Final = "key-changes"
KEPT: Final = 8
"""With the default overlap as many weeks: no backup of an index is taken up that is older."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeyChanges(Message):
    """The file's content, oldest first."""

    changes: Annotated[tuple[ChangeBucketKey, ...], Bounds(0, KEPT)] = ()


def load_changes(data_dir: Path) -> tuple[ChangeBucketKey, ...]:
    """What is kept. Blocks. A file that cannot be read is told and not missed."""
    path = data_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            return decode_message(KeyChanges, file.read(CBOR_BYTES_MAX + 1)).changes
    except FileNotFoundError:
        return ()
    except (OSError, InvalidArgumentError) as error:
        _log.warning("key_changes_unreadable", file=str(path), reason=str(error))
        return ()


def keep_change(data_dir: Path, change: ChangeBucketKey) -> None:
    """Keep one more that the index has agreed to; durable on return. Raises OSError."""
    before = tuple(each for each in load_changes(data_dir) if each != change)
    content = KeyChanges((*before, change)[-KEPT:])
    write_private(data_dir / FILE_NAME, encode_message(content))

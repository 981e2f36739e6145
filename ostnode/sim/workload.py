"""What people do in a simulated cluster: a list of steps, made from a seed before anything runs.

A step's own seed decides all that is left open when its turn comes, so that what one does depends
on no other step's being in the list: leaving some out leaves the rest as they are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from blake3 import blake3

from ostnode.ids import BlobId

DEVICES_PER_ACCOUNT: Final = 2
ACCOUNTS: Final = 3
CHATS: Final = 4
CONTENTS: Final = 10
SIZES: Final = (0, 1, 100, 256, 257, 3 * 256 + 5, 5 * 256, 9 * 256 - 1)
"""Chunks have 256 bytes."""
_LIMITS: Final = (16 << 10, 8 << 10, 3 << 10)
"""Bytes of the accounts at first: the last one's is soon full."""


class Act(StrEnum):
    """What a step is."""

    UPLOAD = "upload"
    CUT = "cut"
    RESUME = "resume"
    ABANDON = "abandon"
    STALE = "stale"
    FORWARD = "forward"
    READ = "read"
    DELETE = "delete"
    DELETE_CHAT = "delete_chat"
    ASK = "ask"
    WRONG = "wrong"
    CHANGE_LIMIT = "change_limit"
    BEGIN_ANEW = "begin_anew"
    CHANGE_PRINCIPAL = "change_principal"
    BLOCK = "block"
    BLOCK_BLOB = "block_blob"
    CHECK = "check"
    RESTORE = "restore"
    RESTORE_BUCKET = "restore_bucket"
    LOSE_BUCKET = "lose_bucket"
    REST_BUCKET = "rest_bucket"
    UPKEEP = "upkeep"


DEVICE_ACTS: Final[Mapping[Act, float]] = {
    Act.UPLOAD: 30,
    Act.CUT: 8,
    Act.RESUME: 6,
    Act.ABANDON: 4,
    Act.STALE: 6,
    Act.FORWARD: 12,
    Act.READ: 14,
    Act.DELETE: 14,
    Act.DELETE_CHAT: 1,
    Act.ASK: 4,
    Act.WRONG: 16,
}
APP_ACTS: Final[Mapping[Act, float]] = {
    Act.CHANGE_LIMIT: 5,
    Act.BEGIN_ANEW: 3,
    Act.CHANGE_PRINCIPAL: 3,
    Act.BLOCK: 2,
    Act.BLOCK_BLOB: 2,
    Act.CHECK: 2,
    Act.RESTORE: 0.7,
    Act.RESTORE_BUCKET: 0.7,
    Act.LOSE_BUCKET: 0.7,
    Act.REST_BUCKET: 1.5,
    Act.DELETE_CHAT: 5,
    Act.UPKEEP: 5,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that one actor does after a pause; the app is actor 0, devices come behind it."""

    number: int
    actor: int
    act: Act
    pause_s: float
    seed: int

    def random(self) -> random.Random:
        """What the step leaves open is drawn from here, the same way every time."""
        return random.Random(self.seed)  # noqa: S311  repeatable on purpose

    def told(self) -> str:
        """The step in a few words."""
        return f"step {self.number}: {actor_name(self.actor)} {self.act}"


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes to upload, and the BLAKE3 that names them."""

    data: bytes
    blob_id: BlobId

    @classmethod
    def of(cls, data: bytes) -> Content:
        """The content of these bytes."""
        return cls(data, BlobId(blake3(data).digest()))

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)


def make_steps(seed: int, seconds: float, pause_s: float = 12.0) -> tuple[Step, ...]:
    """Steps that take about so many seconds; every actor waits `pause_s` on average in between."""
    rng = random.Random(f"steps {seed}")  # noqa: S311  repeatable on purpose
    steps = [
        step
        for actor in range(1 + ACCOUNTS * DEVICES_PER_ACCOUNT)
        for step in _steps_of(actor, rng, seconds, pause_s)
    ]
    return tuple(
        Step(number, step.actor, step.act, step.pause_s, step.seed)
        for number, step in enumerate(steps)
    )


def _steps_of(actor: int, rng: random.Random, seconds: float, pause_s: float) -> list[Step]:
    acts = DEVICE_ACTS if actor else APP_ACTS
    steps, at = list[Step](), 0.0
    while True:
        # Now and then somebody does several things in a row.
        pause = 0.0 if rng.random() < _AT_ONCE else rng.expovariate(1 / pause_s)
        at += pause
        if at > seconds:
            return steps
        (act,) = rng.choices([*acts], [*acts.values()])
        steps.append(Step(0, actor, act, round(pause, 3), rng.getrandbits(63)))


_AT_ONCE: Final = 0.2


def make_contents(seed: int) -> list[Content]:
    """The contents that people share: several upload the same one."""
    rng = random.Random(f"contents {seed}")  # noqa: S311  repeatable on purpose
    sizes = [*SIZES, *rng.choices(SIZES[2:], k=CONTENTS - len(SIZES))]
    return [Content.of(rng.randbytes(size)) for size in sizes]


def first_limit(account: int) -> int:
    """The allowance with which an account begins, in bytes."""
    return _LIMITS[account % len(_LIMITS)]


def account_of(actor: int) -> int:
    """Whose device an actor is."""
    return (actor - 1) // DEVICES_PER_ACCOUNT


def actor_name(actor: int) -> str:
    """An actor as people call it."""
    if actor == 0:
        return "app"
    return f"user{account_of(actor)}/{'ab'[(actor - 1) % DEVICES_PER_ACCOUNT]}"


def dump_steps(steps: Sequence[Step]) -> list[list[int | float | str]]:
    """The steps as JSON takes them."""
    return [[step.number, step.actor, step.act, step.pause_s, step.seed] for step in steps]


def load_steps(rows: Sequence[object]) -> tuple[Step, ...]:
    """The steps of `dump_steps`; raises ValueError for anything else."""
    steps = []
    for row in rows:
        match row:
            case [int(number), int(actor), str(act), float() | int() as pause, int(seed)]:
                steps.append(Step(number, actor, Act(act), float(pause), seed))
            case _:
                raise ValueError("a step is [number, actor, act, pause, seed]")
    return tuple(steps)

"""Which requests a node may answer, and which it must refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ostnode.errors import all_errors
from ostnode.fuzz import spec
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.shapes import fits
from ostnode.wire.calls import CALLS, CallSpec, Kind, Who

_CODES: Final = frozenset(error.code for error in all_errors())
_BY_NUMBER: Final = {call.number: call for call in CALLS}


@dataclass(slots=True)
class Asked:
    """A request that is owed an answer by `due`. `must_refuse` says why it may get no reply."""

    name: str
    call: CallSpec | None
    must_refuse: str
    body_bytes: int
    header_bytes: int = 0
    sent_at: float = 0.0
    due: float = 0.0
    answered_at: float = -1.0
    outcome: str = ""

    @property
    def changed_nothing(self) -> bool:
        """Whether the answer says so."""
        if self.outcome == "reply":
            return self.name in spec.READ_ONLY
        return bool(self.outcome) and self.outcome not in spec.CHANGING_REFUSALS

    def open_at(self, moment: float) -> bool:
        """Whether it surely had no answer yet at a moment after it was sent."""
        unanswered = self.answered_at < 0 or self.answered_at > moment + 1
        return self.sent_at <= moment and unanswered

    def judge_reply(self, message: object, body: bytes) -> list[str]:
        """What is wrong with a reply."""
        if self.must_refuse or self.call is None:
            return [f"the node answered {self.name}, which it must refuse: {self.must_refuse}"]
        if not fits(self.call.result, message):
            return [f"the node's answer to {self.name} is not of its shape"]
        if body and self.call.carries != "result":
            return [f"the node's answer to {self.name} has a body"]
        return []

    def judge_refusal(self) -> list[str]:
        """What is wrong with a refusal of this code."""
        if self.outcome == "internal":
            return [f"{self.name} failed inside the node"]
        if self.outcome not in _CODES:
            return [f"{self.name} was refused with an unknown code"]
        return []


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose request it is, and what the link it came on has agreed on."""

    principal: bytes
    features: frozenset[str] = frozenset()


class Asking:
    """Judges requests by the registry and the messages' annotations."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast

    def judge(
        self, role: Kind | None, who: Asker, number: int, fields: object, body_bytes: int
    ) -> Asked:
        """What a node of this role owes for a request."""
        call = _BY_NUMBER.get(number)
        name = "an unknown call" if call is None else call.name
        return Asked(name, call, self._why_not(call, role, who, fields, body_bytes), body_bytes)

    def _why_not(
        self,
        call: CallSpec | None,
        role: Kind | None,
        who: Asker,
        fields: object,
        body_bytes: int,
    ) -> str:
        if call is None:
            return "there is no such call"
        if role is not None and call.role is not role:
            return "it is another role's"
        if call.feature and call.feature not in who.features:
            return "the link has not agreed on it"
        if body_bytes and call.carries != "request":
            return "it takes no body"
        if not fits(call.request, fields):
            return "the message is malformed"
        kinds = self._cast.kinds(who.principal)
        named = {Kind(one) for one in call.who if one is not Who.SOMEBODY}
        known = not self._cast.may_anything(who.principal)
        if known and Who.SOMEBODY not in call.who and not named & kinds:
            return "it is not for this caller"
        return ""

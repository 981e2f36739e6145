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


NO_CALL: Final = "there is no such call"
NOT_AGREED: Final = "the link has not agreed on it"
NO_BODY: Final = "it takes no body"
MALFORMED: Final = "the message is malformed"
NOT_ALLOWED: Final = "it is not for this caller"
OTHER_ROLE: Final = "it is another role's"
_OF_USERS: Final = frozenset({
    "user",
    "allocated_bucket",
    "can_forward",
    "push_chunk",
    "upload_status",
    "add_blob_reference",
})
_CODES_OF: Final = {
    NO_CALL: "unknown_call",
    NOT_AGREED: "unknown_call",
    NO_BODY: "invalid_argument",
    MALFORMED: "invalid_argument",
    NOT_ALLOWED: "not_authorized",
    OTHER_ROLE: "unknown_call",
}
_AT_ANY_TIME: Final = frozenset({"busy", "shutting_down", "internal"})
"""Of these the last has a finding of its own."""
_WITH_TOKENS: Final = frozenset({"locate", "blob_info", "read_blob"})


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
    foreign: str = ""
    """Why a reply is a leak, as long as nobody with power has a part in the case."""

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
        expected = _CODES_OF.get(self.must_refuse)
        if expected and self.outcome not in {expected, *_AT_ANY_TIME}:
            return [f"{self.name} was refused, but not because {self.must_refuse}"]
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
        why_not = self._why_not(call, role, who, fields, body_bytes)
        foreign = "" if why_not else self._foreign(name, who.principal, fields)
        return Asked(name, call, why_not, body_bytes, foreign=foreign)

    def _foreign(self, name: str, principal: bytes, fields: object) -> str:
        assert isinstance(fields, dict)
        if name in _OF_USERS and not self._cast.is_registered(principal):
            return "the caller is no user"
        if name == "user" and fields.get("principal", principal) != principal:
            return "it is another user's account"
        if "grant" in fields and principal.hex().encode() not in fields["grant"]:
            return "the grant is another user's"  # a grant names its user in hex
        if name in _WITH_TOKENS and not fields.get("token") and fields["accessor"] != principal:
            return "the chat has not given its word"
        return ""

    def _why_not(
        self,
        call: CallSpec | None,
        role: Kind | None,
        who: Asker,
        fields: object,
        body_bytes: int,
    ) -> str:
        if call is None:
            return NO_CALL
        if call.feature and call.feature not in who.features:
            return NOT_AGREED
        if body_bytes and call.carries != "request":
            return NO_BODY
        if not fits(call.request, fields):
            return MALFORMED
        kinds = self._cast.kinds(who.principal)
        named = {Kind(one) for one in call.who if one is not Who.SOMEBODY}
        known = not self._cast.may_anything(who.principal)
        if known and Who.SOMEBODY not in call.who and not named & kinds:
            return NOT_ALLOWED
        if role is not None and call.role is not role:
            return OTHER_ROLE
        return ""

"""What the node owes on one link, worked out from the bytes that crossed it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from ostnode.errors import all_errors
from ostnode.fuzz import spec
from ostnode.fuzz.hearing import Frame, cut_frame, header_of
from ostnode.fuzz.requests import Asked, Asker, Asking
from ostnode.fuzz.shapes import fits
from ostnode.fuzz.strictcbor import Item, NotStrictError, read_strict
from ostnode.identity.keys import verify
from ostnode.ids import Principal
from ostnode.wire import session as s
from ostnode.wire.calls import Kind

_CODES: Final = frozenset(error.code for error in all_errors())
_VARYING: Final = re.compile(r"[0-9a-f]{8,}|[0-9]+|'[^']*'")


@dataclass(slots=True)
class Channel:
    """What the judge is told about a link. Times are seconds of the run's clock.

    `slack_s` is how long whatever is to come at once may take.
    """

    role: Kind | None
    asking: Asking
    binding: bytes
    slack_s: float
    dialled_at: float
    deaf: bool = False
    deaf_s: float = 0.0
    listened_at: float = 0.0
    finished_at: float = -1.0
    is_reset: bool = False


@dataclass(slots=True)
class Judge:
    """Told everything that is sent and heard; keeps what is wrong in `problems`.

    `features` name what happened, for the search: state, frame, and how it ended.
    """

    channel: Channel
    problems: list[str] = field(default_factory=list)
    features: set[str] = field(default_factory=set)
    asked: dict[int, Asked] = field(default_factory=dict)
    state: str = "start"
    violation: str = ""
    principal: bytes = b""
    hello: bytes = b""
    their_hello: bytes = b""
    ended_at: float = -1.0
    frames: int = 0
    _sent: bytearray = field(default_factory=bytearray)
    _heard: bytearray = field(default_factory=bytearray)
    _told: str = ""
    _welcomed: bool = False
    _may_close: bool = False
    _too_late: bool = False
    _violated_at: float = 0.0
    _stepped_at: float = 0.0
    _inside_since: float = -1.0
    _sent_at: float = 0.0
    _last_id: int = 0
    _window: int = 1
    _window_bytes: int = 0
    _pinged: set[int] = field(default_factory=set)
    _pongs_left: int = 0
    _unponged: int = -1
    _pinged_at: float = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether a valid AUTH has no WELCOME yet."""
        return self.state == "open" and not self._welcomed and self.ended_at < 0

    # --- what we say ----------------------------------------------------------------------------

    def sent(self, data: bytes | memoryview, now: float) -> None:
        """These bytes were handed to the stream."""
        self._sent_at = now
        if self.state not in {"over", "leaving"}:
            self._sent += data
            self._advance(now)

    def _advance(self, now: float) -> None:
        """Judge every frame that is whole; AUTH only once the node's HELLO is known."""
        while self.state not in {"over", "leaving"}:
            # What is wrong as the link's time runs out may never be read.
            self._too_late = self._excused(now)
            try:
                frame = cut_frame(self._sent, greeting=self.state != "open")
            except NotStrictError as error:
                self._violate(str(error), now)
                return
            if frame is None:
                if self._inside_since < 0 and self._sent:
                    self._inside_since = now
                return
            header = header_of(frame)
            waits = header is not None and header.get("t") == spec.AUTH and not self.their_hello
            if self.state == "greeted" and waits:
                return
            del self._sent[: frame.size]
            self._inside_since = -1.0
            self._judge(frame, now)

    def _judge(self, frame: Frame, now: float) -> None:
        self.frames += 1
        header = header_of(frame)
        kind = None if header is None else header.pop("t", None)
        name = spec.NAMES[kind] if type(kind) is int and 0 < kind <= spec.GOAWAY else "garbage"
        before = self.state
        wrong = self._wrong(frame, header, kind, now)
        self.features.add(f"{before} {name} {wrong or 'good'}")
        if wrong:
            self._violate(wrong, now)

    def _wrong(self, frame: Frame, header: dict[str, Item] | None, kind: Item, now: float) -> str:
        """Why this frame ends the link; empty when it does not."""
        if header is None:
            return "the header is no strict CBOR map"
        if type(kind) is not int or kind not in _ALLOWED[self.state]:
            return "the frame is unknown or out of place"
        if frame.body and kind != spec.REQUEST:
            return "the frame carries no body"
        self._stepped_at = now
        match kind:
            case spec.HELLO:
                return self._greeted(frame.header, header)
            case spec.AUTH:
                return self._proved(header)
            case spec.REQUEST:
                return self._requested(header, frame, now)
            case spec.PING if fits(s.Ping, header):
                token = header["token"]
                assert isinstance(token, int)
                self._pinged.add(token)
                self._pongs_left += 1
                self._unponged = token
                self._pinged_at = now
                return ""
            case spec.GOAWAY if fits(s.Goaway, header):
                self.state = "leaving"
                return ""
            case spec.PING | spec.GOAWAY:
                return "the frame is malformed"
            case _:
                shape = s.Cancel if kind == spec.CANCEL else s.Pong
                return "" if fits(shape, header) else "the frame is malformed"

    def _greeted(self, raw: bytes, header: dict[str, Item]) -> str:
        if not fits(s.Hello, header):
            return "the HELLO is malformed"
        low, high, principal = header["protocol_min"], header["protocol_max"], header["principal"]
        assert isinstance(low, int)
        assert isinstance(high, int)
        assert isinstance(principal, bytes)
        if min(high, s.PROTOCOL_MAX) < max(low, s.PROTOCOL_MIN):
            return "no common version"
        self.state, self.hello, self.principal = "greeted", raw, principal
        return ""

    def _proved(self, header: dict[str, Item]) -> str:
        signature = header.get("signature")
        if not fits(s.Proof, header) or not isinstance(signature, bytes):
            return "the AUTH is malformed"
        statement = spec.statement("dialler", self.hello, self.their_hello, self.channel.binding)
        if not verify(Principal(self.principal), statement, signature):
            return "the proof is wrong"
        self.state = "open"
        return ""

    def _requested(self, header: dict[str, Item], frame: Frame, now: float) -> str:
        body_bytes = len(frame.body)
        fields = header.pop("m", None)
        if not fits(s.RequestHead, header):
            return "the request's head is malformed"
        number, call, ms = header["id"], header["call"], header["ms"]
        assert isinstance(number, int)
        assert isinstance(call, int)
        assert isinstance(ms, int)
        if number <= self._last_id:
            return "request ids must rise"
        self._last_id = number
        waiting = [asked for asked in self.asked.values() if asked.answered_at < 0]
        held = body_bytes + sum(asked.body_bytes for asked in waiting)
        if len(waiting) >= self._window or held > self._window_bytes:
            self._may_close = True
        asking = self.channel.asking
        who = Asker(self.principal, self._features())
        asked = asking.judge(self.channel.role, who, call, fields, body_bytes)
        asked.header_bytes = len(frame.header)
        asked.sent_at, asked.due = now, now + ms / 1000 + self.channel.slack_s
        self.asked[number] = asked
        return ""

    def _features(self) -> frozenset[str]:
        """What both hellos name, in a version that has features."""
        ours, theirs = read_strict(self.hello), read_strict(self.their_hello)
        assert isinstance(ours, dict)
        assert isinstance(theirs, dict)
        high = [hello["protocol_max"] for hello in (ours, theirs)]
        if min(value for value in high if isinstance(value, int)) < s.FEATURES_SINCE:
            return frozenset()
        named = [hello.get("features", []) for hello in (ours, theirs)]
        sets = [frozenset(map(str, names)) for names in named if isinstance(names, list)]
        return sets[0] & sets[1]

    def _violate(self, reason: str, now: float) -> None:
        self.state, self.violation, self._violated_at = "over", reason, now
        self._inside_since = -1.0
        self._sent.clear()

    # --- what the node says ---------------------------------------------------------------------

    def heard(self, data: bytes, now: float) -> None:
        """These bytes came from the node."""
        self._heard += data
        while True:
            try:
                frame = cut_frame(self._heard, greeting=False)
            except NotStrictError as error:
                self.problems.append(f"the node sent a frame over the limits: {error}")
                self._heard.clear()
                return
            if frame is None:
                break
            del self._heard[: frame.size]
            self._hear(frame, now)

    def _hear(self, frame: Frame, now: float) -> None:
        header = header_of(frame)
        kind = None if header is None else header.pop("t", None)
        if header is None or type(kind) is not int:
            self.problems.append("the node sent a header that is no strict CBOR map")
            return
        if kind != spec.HELLO and not self.their_hello and kind != spec.GOAWAY:
            self.problems.append("the node said something before its HELLO")
            return
        match kind:
            case spec.HELLO if fits(s.Hello, header):
                self.their_hello = frame.header
                window, window_bytes = header["window_requests"], header["window_bytes"]
                assert isinstance(window, int)
                assert isinstance(window_bytes, int)
                self._window, self._window_bytes = window, window_bytes
                self._advance(now)  # an AUTH may have waited for it
            case spec.WELCOME:
                self._hear_welcome(header)
            case spec.REPLY | spec.REFUSAL:
                self._hear_answer(kind, header, frame.body, now)
            case spec.PONG:
                self._hear_pong(header)
            case spec.GOAWAY if fits(s.Goaway, header):
                self._hear_goaway(str(header["code"]), str(header["message"]))
            case spec.PING if fits(s.Ping, header):
                pass
            case _:
                self.problems.append(f"the node sent a malformed or misplaced frame {kind}")

    def _hear_welcome(self, header: dict[str, Item]) -> None:
        if self.state not in {"open", "leaving", "over"} or "proof" in self.violation:
            self.problems.append("the node welcomed a peer that proved nothing")
        statement = spec.statement("accepter", self.hello, self.their_hello, self.channel.binding)
        signature, hello = header.get("signature"), read_strict(self.their_hello)
        assert isinstance(hello, dict)
        theirs = hello["principal"]
        assert isinstance(theirs, bytes)
        if not isinstance(signature, bytes) or not verify(Principal(theirs), statement, signature):
            self.problems.append("the node's own proof is wrong")
        self._welcomed = True

    def _hear_answer(self, kind: int, header: dict[str, Item], body: bytes, now: float) -> None:
        number = header.pop("id", None)
        if self.state == "leaving":
            return  # what crossed our GOAWAY may be answered or not
        asked = self.asked.get(number) if type(number) is int else None
        if asked is None or asked.answered_at >= 0:
            self.problems.append("the node answered what was not asked, or twice")
            return
        asked.answered_at = now
        if kind == spec.REPLY:
            asked.outcome = "reply"
            self.problems += asked.judge_reply(header.get("m"), body)
        else:
            asked.outcome = str(header.get("code"))
            self.problems += asked.judge_refusal()
        said = _VARYING.sub("#", str(header.get("message", "")))[:80]
        self.features.add(f"{asked.name} {asked.outcome} {said}")

    def _hear_pong(self, header: dict[str, Item]) -> None:
        token = header.get("token")
        if token not in self._pinged or not self._pongs_left:
            self.problems.append("the node sent a PONG that nobody asked for")
        self._pongs_left -= 1
        # One PONG may answer many PINGs, to the last of them.
        self._unponged = -1 if token == self._unponged else self._unponged

    def _hear_goaway(self, code: str, message: str) -> None:
        self._told = code
        self.features.add(f"GOAWAY {code} {_VARYING.sub('#', message)[:80]}")
        if code == "internal" or code not in _CODES:
            self.problems.append(f"the node ended the link with the code {code}")
        elif not (self.violation or self._may_close or self.state == "leaving"):
            said = _VARYING.sub("#", message)
            self.problems.append(f"the node refused what the protocol allows: {code}: {said}")

    def ended(self, now: float, *, broken: bool = False) -> None:
        """The node ended its side, or the connection broke."""
        self.ended_at = now
        channel = self.channel
        if channel.is_reset or channel.finished_at >= 0 or self.state == "leaving":
            return
        silent = channel.deaf_s > spec.STALL_S - spec.EXCUSE_MARGIN_S
        if self.violation:
            if not (self._told or broken or silent or self._too_late):
                self.problems.append(f"the node closed without saying why: {self.violation}")
        elif not (self._told or silent or self._excused(now)):
            self.problems.append("the node closed the link though nothing was wrong")

    def _excused(self, now: float) -> bool:
        """Whether the link's age or our silence is reason enough to end it."""
        margin = spec.EXCUSE_MARGIN_S
        if self.state != "open":
            return now - self.channel.dialled_at >= spec.HANDSHAKE_S - margin
        stalled = self._inside_since >= 0 and now - self._inside_since >= spec.STALL_S - margin
        return stalled or now - self._sent_at >= spec.PING_INTERVAL_S - margin

    # --- what is owed ---------------------------------------------------------------------------

    def dues(self, *, patient: bool = True) -> dict[str, float]:
        """What the node still owes, and by when; without `patient` only what must come promptly."""
        channel, slack = self.channel, self.channel.slack_s
        if self.ended_at >= 0 or channel.is_reset or channel.deaf:
            return {}
        if channel.finished_at >= 0:
            due = {"the end of the link after our end": channel.finished_at + slack}
        elif self.violation:
            due = {f"the end of the link ({self.violation})": self._violated_at + slack}
        elif self.state == "leaving" or self._told:
            return {}
        else:
            due = self._answers() | (self._endings() if patient else {})
        return {what: max(when, channel.listened_at + slack) for what, when in due.items()}

    def _answers(self) -> dict[str, float]:
        slack = self.channel.slack_s
        due = {
            f"an answer to {asked.name}": asked.due
            for asked in self.asked.values()
            if asked.answered_at < 0
        }
        if self.state == "greeted" and not self.their_hello:
            due["the node's HELLO"] = self._stepped_at + slack
        if self.state == "open" and not self._welcomed:
            due["WELCOME"] = self._stepped_at + slack
        if self._unponged >= 0:
            due["a PONG"] = self._pinged_at + slack
        return due

    def _endings(self) -> dict[str, float]:
        """Links that must not be held for ever."""
        slack = self.channel.slack_s
        if self.state != "open":
            by = self.channel.dialled_at + spec.HANDSHAKE_S + slack
            return {"the end of an unfinished handshake": by}
        if self._inside_since >= 0:
            return {"the end of a stalled link": self._inside_since + spec.STALLED_WITHIN_S + slack}
        return {}

    def overdue(self, now: float) -> None:
        """Put on record what should have come by now."""
        self.problems += [f"the node owes {what}" for what, due in self.dues().items() if due < now]

    def overrun(self) -> None:
        """Put on record that more requests were open at once than the window takes."""
        if self._told or self.channel.deaf_s:
            return
        for at in {asked.sent_at for asked in self.asked.values()}:
            if sum(asked.open_at(at) for asked in self.asked.values()) > self._window:
                self.problems.append("the node held more requests than its window")
                return


_ALLOWED: Final[dict[str, frozenset[int]]] = {
    "start": frozenset({spec.HELLO, spec.GOAWAY}),
    "greeted": frozenset({spec.AUTH, spec.GOAWAY}),
    "open": frozenset({spec.REQUEST, spec.CANCEL, spec.PING, spec.PONG, spec.GOAWAY}),
}

"""Sessions of the peer protocol as data: recorded once, replayed for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from ostnode.errors import OstError
from ostnode.wire import events
from ostnode.wire import incoming as i
from ostnode.wire import messages as m
from ostnode.wire.calls import CALLS, CallSpec, Reply
from ostnode.wire.connection import Connection
from ostnode.wire.eventcodec import encode_event
from ostnode.wire.fields import Message
from tests.support.wire_peers import feed, wire
from tests.support.wire_samples import full, least, told

BODY = bytes(range(256))


def shown(event: i.Event) -> dict[str, object]:
    """An event as JSON."""
    match event:
        case i.Greeted(hello):
            return {"event": "greeted", "hello": told(hello)}
        case i.Proven(peer):
            return {"event": "proven", "peer": peer.hex()}
        case i.RequestReceived(request_id, spec, request, body, ms):
            said = {"id": request_id, "call": spec.name, "ms": ms, "request": told(request)}
            return {"event": "request", **said, "body": told(body)}
        case i.RequestMalformed(request_id, error):
            return {"event": "malformed request", "id": request_id, "code": error.code}
        case i.Answered(request_id, Reply(message, body)):
            said = {"result": told(message), "body": told(body)}
            return {"event": "reply", "id": request_id, **said}
        case i.Answered(request_id, OstError() as error):
            return {"event": "refusal", "id": request_id, **_error(error)}
        case i.GoawayReceived(error, final):
            return {"event": "goaway", "final": final, **_error(error)}
        case i.CancelReceived(number) | i.PingReceived(number) | i.PongReceived(number):
            name = type(event).__name__.removesuffix("Received").lower()
            return {"event": name, "number": number}
        case i.Closed(clean):
            return {"event": "end", "clean": clean}
        case _:
            raise AssertionError(event)


def _error(error: OstError) -> dict[str, object]:
    return {"code": error.code, "message": error.message, "details": error.details}


def said_again(connection: Connection, event: i.Event) -> bytes:
    """The frame that makes this event at the other side."""
    match event:
        case i.Greeted():
            return wire(connection.send_hello())
        case i.Proven():
            return wire(connection.send_proof())
        case i.RequestReceived(request_id, _, request, body, ms):
            sent_id, outgoing = connection.send_request(request, ms, body)
            assert sent_id == request_id
            return wire(outgoing)
        case i.Answered(request_id, Reply() as reply):
            return wire(connection.send_reply(request_id, reply))
        case i.Answered(request_id, OstError() as error):
            return wire(connection.send_refusal(request_id, error))
        case i.CancelReceived(number):
            return wire(connection.send_cancel(number))
        case i.PingReceived(number):
            return wire(connection.send_ping(number))
        case i.PongReceived(number):
            return wire(connection.send_pong(number))
        case i.GoawayReceived(error):
            return wire(connection.send_goaway(error))
        case _:
            raise AssertionError(event)


@dataclass
class Recorder:
    """Two ends that talk; keeps each frame with who said it and what it meant to the other."""

    dialler: Connection
    accepter: Connection

    def __post_init__(self) -> None:
        self.said: list[dict[str, object]] = []

    def say(self, speaker: str, frame: bytes) -> i.Event:
        """Carry one frame across."""
        listener = self.accepter if speaker == "dialler" else self.dialler
        (event,) = feed(listener, frame)
        self.said.append({"from": speaker, "frame": frame.hex(), "means": shown(event)})
        return event

    def shake_hands(self) -> None:
        self.say("dialler", wire(self.dialler.send_hello()))
        self.say("accepter", wire(self.accepter.send_hello()))
        self.say("dialler", wire(self.dialler.send_proof()))
        self.say("accepter", wire(self.accepter.send_proof()))

    def ask(self, request: Message, ms: int, body: bytes = b"") -> int:
        request_id, outgoing = self.dialler.send_request(request, ms, body)
        self.say("dialler", wire(outgoing))
        return request_id

    def answer(self, request_id: int, outcome: Reply | OstError) -> None:
        if isinstance(outcome, Reply):
            self.say("accepter", wire(self.accepter.send_reply(request_id, outcome)))
        else:
            self.say("accepter", wire(self.accepter.send_refusal(request_id, outcome)))


def conversations(specs: tuple[CallSpec, ...]) -> Iterator[tuple[CallSpec, Message, Message]]:
    """Each call with all there can be in it, and with as little as may be."""
    for spec in specs:
        for make in (full, least):
            yield spec, _with_events(make(spec.request)), _with_events(make(spec.result))


def _with_events(message: Message) -> Message:
    """A batch of events carries real ones."""
    if isinstance(message, m.SyncBucket | m.FeedBatch) and message.events:
        return full_batch(type(message))
    return message


def full_batch(cls: type[m.SyncBucket | m.FeedBatch]) -> Message:
    union = events.OutboxEvent if cls is m.SyncBucket else events.FeedEvent
    made = tuple(encode_event(full(event)) for event in get_args(union))
    message = full(cls)
    values = {name: getattr(message, name) for name in type(message).__dataclass_fields__}
    return cls(**{**values, "events": made})


def record(dialler: Connection, accepter: Connection, errors: tuple[type[OstError], ...]):
    """A session with every kind of frame, every call and every refusal in it."""
    recorder = Recorder(dialler, accepter)
    recorder.shake_hands()
    for spec, request, result in conversations(CALLS):
        asked = recorder.ask(request, 1500, BODY if spec.carries == "request" else b"")
        recorder.answer(asked, Reply(result, BODY if spec.carries == "result" else b""))
    for error in errors:
        asked = recorder.ask(full(m.ReadBlob), 600_000)
        recorder.answer(asked, error("über alles", limit=1 << 62, name="größe", yes=True))
    first = recorder.ask(least(m.ReadBlob), 1)
    second = recorder.ask(least(m.GetUser), 60_000)
    recorder.say("dialler", wire(dialler.send_cancel(first)))
    recorder.say("dialler", wire(dialler.send_ping(0)))
    recorder.say("accepter", wire(accepter.send_ping(1 << 62)))
    recorder.say("accepter", wire(accepter.send_pong(0)))
    recorder.say("dialler", wire(dialler.send_pong(1 << 62)))
    by_code = {error.code: error for error in errors}
    recorder.say("accepter", wire(accepter.send_goaway(by_code["shutting_down"]("for an update"))))
    recorder.answer(second, Reply(full(m.UserInfo)))
    recorder.answer(first, by_code["busy"]("the request was cancelled"))
    recorder.say("dialler", wire(dialler.send_goaway(by_code["invalid_argument"]("enough"))))
    return recorder.said

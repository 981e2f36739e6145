"""Join tokens as people copy them: `idx1…@host:port#id.secret`, one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from typing_extensions import override

from ostnode.base64url import decode_base64url, encode_base64url
from ostnode.config.values import BadValueError, parse_address
from ostnode.errors import InvalidArgumentError
from ostnode.ids import Principal, PrincipalKind

INVITE_ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
_HINT: Final = "copy the whole line that `ostnode bucket invite` printed"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Which index to join, where it listens for peers, and the single-use secret."""

    index: Principal
    peer: str
    invite_id: bytes
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """The line, secret and all."""
        return f"{self._front()}.{encode_base64url(self.secret)}"

    @override
    def __str__(self) -> str:
        """The line without its secret, for configs and logs that are shown."""
        return f"{self._front()}.…"

    def _front(self) -> str:
        index = self.index.text(PrincipalKind.INDEX)
        return f"{index}@{self.peer}#{encode_base64url(self.invite_id)}"

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """The token of a line; raises BadValueError, which never quotes the secret."""
        where, mark, proof = text.strip().partition("#")
        index, at, peer = where.partition("@")
        invite_id, dot, secret = proof.partition(".")
        if not (mark and at and dot):
            raise BadValueError("it is no join token", _HINT)
        try:
            token = cls(
                Principal.parse(index, PrincipalKind.INDEX),
                parse_address(peer),
                decode_base64url(invite_id),
                decode_base64url(secret),
            )
        except InvalidArgumentError as error:
            raise BadValueError(f"it is no join token: {error.message}", _HINT) from None
        if (len(token.invite_id), len(token.secret)) != (INVITE_ID_BYTES, SECRET_BYTES):
            raise BadValueError("the join token is cut short", _HINT)
        return token


def parse_join(value: object) -> JoinToken | None:
    """A config's join token; an empty text is none."""
    if value is None or isinstance(value, JoinToken):
        return value
    if not isinstance(value, str):
        raise BadValueError("a join token is a text", _HINT)
    return JoinToken.parse(value) if value else None


def join_text(token: JoinToken | None) -> str:
    """What `config show` prints: never the secret."""
    return str(token) if token else ""

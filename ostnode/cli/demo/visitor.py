"""A reader with nothing but an HTTP client, a key and a URL: what a browser would see."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx2

from ostnode.env import SystemRng
from ostnode.identity.keys import KeyPair
from ostnode.identity.statements import CTI_BYTES
from ostnode.identity.tokens import Login, encode_text, mint_login
from ostnode.ids import BlobId, Principal, PrincipalKind
from ostnode.wire.messages import BucketAddress


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, as far as it can tell two cases apart (dates and lengths of time aside)."""

    status: int
    headers: dict[str, str]
    body: bytes


class Visitor:
    """Logged in at one bucket, or nobody."""

    def __init__(self, http: httpx2.AsyncClient, bucket: BucketAddress) -> None:
        self._http = http
        self._bucket = bucket
        self.headers: dict[str, str] = {}
        """What every request carries: the session."""

    async def log_in(self, key: KeyPair) -> None:
        """Trade a signed login for a session at this bucket."""
        login = mint_login(
            key,
            Login(
                caller=key.principal,
                node=self._bucket.principal,
                origin="",
                issued_at=int(time.time()),
                cti=SystemRng().token(CTI_BYTES),
            ),
        )
        answer = await self._http.post(
            f"{self._bucket.http}/v1/session", json={"login": encode_text(login)}
        )
        answer.raise_for_status()
        self.headers = {"Authorization": f"OST {answer.json()['session']}"}

    async def ask(
        self,
        accessor: Principal,
        blob_id: BlobId,
        token: bytes,
        *,
        method: str = "GET",
        byte_range: str | None = None,
    ) -> Answer:
        """GET or HEAD `/{accessor}/{blob_id}?token=…`."""
        chat = accessor.text(PrincipalKind.ACCESSOR)
        headers = self.headers | ({} if byte_range is None else {"Range": byte_range})
        answer = await self._http.request(
            method,
            f"{self._bucket.http}/{chat}/{blob_id}",
            params={"token": encode_text(token)},
            headers=headers,
        )
        return Answer(
            answer.status_code,
            {name: value for name, value in answer.headers.items() if name != "date"},
            answer.content,
        )

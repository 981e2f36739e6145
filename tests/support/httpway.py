"""A cluster whose people call it over HTTP: the real applications on real loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

import httpx2
import trio
from typing_extensions import override

from ostnode.client.routes import HttpCall, blob_call, http_call, session_call
from ostnode.config import HttpLimits
from ostnode.errors import OstError, error_class
from ostnode.identity.sessions import Login, mint_login
from ostnode.node.role import token_limits
from ostnode.web.bucket_app import make_bucket_app
from ostnode.web.front import Front
from ostnode.web.index_app import make_index_app
from ostnode.web.serve import serve_http
from ostnode.web.sessions import Sessions
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply, call_of
from ostnode.wire.fields import Request
from ostnode.wire.jsonmap import from_json
from tests.support.cluster import BucketNode, Cluster, IndexNode, Node, Shape, Way, a_cluster
from tests.support.people import Nobody, Person

LIMITS = HttpLimits(request_body_max=4096)
_NAMED_BY_RFC_9457 = {"type", "title", "status", "code", "retryable", "detail"}


class HttpWay(Way):
    """Calls as HTTP requests; every refusal's form is checked as it passes."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.clients: dict[str, httpx2.AsyncClient] = {}
        self._sessions: dict[tuple[Person, str], tuple[str, int]] = {}

    @override
    async def carry(self, person: Person, node: Node, request: Request, body: bytes) -> Reply:
        if isinstance(request, m.ReadBlob):
            return await self._read(person, node, request)
        answer = await self.send(person, node, http_call(request), body)
        content = {} if answer.status_code == HTTPStatus.NO_CONTENT else answer.json()
        return Reply(from_json(call_of(type(request)).result, content))

    async def _read(self, person: Person, node: Node, request: m.ReadBlob) -> Reply:
        call = blob_call(request.accessor, request.blob_id, request.token, None)
        answer = await self.send(person, node, call)
        info = m.BlobInfo(len(answer.content), answer.headers["content-type"], None, 0, 0)
        return Reply(info, answer.content)

    async def send(
        self, person: Person, node: Node, call: HttpCall, body: bytes = b""
    ) -> httpx2.Response:
        """One exchange under the person's session; raises the error that a problem stands for."""
        headers = dict(call.headers)
        if not isinstance(person, Nobody):
            headers["Authorization"] = f"OST {await self._session(person, node)}"
        answer = await self._exchange(node, call, headers, body)
        if answer.is_success:
            return answer
        raise refusal_in(answer)

    async def _exchange(
        self, node: Node, call: HttpCall, headers: dict[str, str], body: bytes
    ) -> httpx2.Response:
        content = {"content": body} if call.json is None else {"json": call.json}
        return await self.clients[node.name].request(
            call.method, call.path, params=call.query, headers=headers, **content
        )

    async def _session(self, person: Person, node: Node) -> str:
        """An open session, as long as the cluster's clock lets it be."""
        now = self._cluster.clock.now()
        session, end = self._sessions.get((person, node.name), ("", 0))
        if end <= now:
            cti = self._cluster.rng.token(16)
            login = Login(person.principal, node.key.principal, "", int(now), cti)
            call = session_call(mint_login(person.key, login))
            answer = await self._exchange(node, call, {}, b"")
            if not answer.is_success:
                raise refusal_in(answer)
            session, end = answer.json()["session"], answer.json()["expires_at"]
            self._sessions[person, node.name] = session, end
        return session


def refusal_in(answer: httpx2.Response) -> OstError:
    """The error of a problem+json answer, every part of which must agree with the error table."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    problem = answer.json()
    assert problem.keys() >= _NAMED_BY_RFC_9457
    known = error_class(problem["code"])
    assert known.code == problem["code"]
    assert answer.status_code == problem["status"] == known.http_status
    assert problem["retryable"] is known.retryable
    assert ("retry-after" in answer.headers) is known.retryable
    assert ("www-authenticate" in answer.headers) is (answer.status_code == 401)
    details = {name: problem[name] for name in problem.keys() - _NAMED_BY_RFC_9457}
    return known(problem["detail"], **details)


def _application(cluster: Cluster, node: Node) -> Front:
    sessions = Sessions(
        node.key,
        clock=cluster.clock,
        limits=token_limits(cluster.config.tokens),
        kinds_of=node.role.kinds_of,
        is_blocked=node.role.service.is_blocked,
    )
    if isinstance(node, BucketNode):
        return make_bucket_app(node.gate, node.service, sessions, LIMITS)
    assert isinstance(node, IndexNode)
    return make_index_app(node.gate, sessions, LIMITS)


@asynccontextmanager
async def an_http_cluster(
    directory: Path, shape: Shape | None = None
) -> AsyncIterator[tuple[Cluster, HttpWay]]:
    """A cluster whose people use HTTP; its buckets still talk with the index over links."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(a_cluster(directory, shape))
        way = HttpWay(cluster)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        for node in cluster.nodes:
            serve = partial(serve_http, _application(cluster, node), "127.0.0.1:0", LIMITS)
            address = await nursery.start(serve)
            client = httpx2.AsyncClient(base_url=f"http://{address}", trust_env=False)
            way.clients[node.name] = await stack.enter_async_context(client)
        cluster.way = way
        yield cluster, way

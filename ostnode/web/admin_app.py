"""The admin listener: is the process alive, can the node do its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ostnode.config import HttpLimits
from ostnode.errors import MethodNotAllowedError
from ostnode.web.asgi import WebRequest, answer_json
from ostnode.web.front import Front, Handler
from ostnode.web.headers import json_headers


class Readiness(Protocol):
    """What the node knows about its parts."""

    def checks(self) -> Mapping[str, str]:
        """Each check's name and what is wrong, "" when nothing is; asked often, so cheap."""
        ...


Metrics = Callable[[], tuple[str, bytes]]
"""The content type and text of /metrics."""


def make_admin_app(
    readiness: Readiness, limits: HttpLimits, metrics: Metrics | None = None
) -> Front:
    """GET /healthz answers while the event loop turns; /readyz is 200 or 503, with each check.

    /metrics is for Prometheus.
    """

    async def health(request: WebRequest) -> None:
        await answer_json(request, 200, {"ok": True})

    async def ready(request: WebRequest) -> None:
        checks = readiness.checks()
        ok = not any(checks.values())
        told = {name: problem or "ok" for name, problem in checks.items()}
        await answer_json(request, 200 if ok else 503, {"ok": ok, "checks": told})

    routes: dict[str, Handler] = {"/healthz": health, "/readyz": ready}
    if metrics is not None:

        async def tell_metrics(request: WebRequest) -> None:
            content_type, text = metrics()
            await request.answer(200, json_headers(content_type.encode(), text), text)

        routes["/metrics"] = tell_metrics

    def match(request: WebRequest) -> Handler | None:
        handler = routes.get(request.path)
        if handler is None:
            return None
        request.template = request.path
        if request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowedError("not with this method", allow="GET, HEAD")
        return handler

    return Front(match, None, limits)

"""The admin listener: is the process alive, can the node do its work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ostnode.config import HttpLimits
from ostnode.errors import MethodNotAllowedError
from ostnode.web.asgi import WebRequest, answer_json
from ostnode.web.front import Front, Handler


class Readiness(Protocol):
    """What the node knows about its parts."""

    def checks(self) -> Mapping[str, str]:
        """Each check's name and what is wrong, "" when nothing is; asked often, so cheap."""
        ...


def make_admin_app(readiness: Readiness, limits: HttpLimits) -> Front:
    """GET /healthz answers while the event loop turns; /readyz is 200 or 503, with each check."""

    async def health(request: WebRequest) -> None:
        await answer_json(request, 200, {"ok": True})

    async def ready(request: WebRequest) -> None:
        checks = readiness.checks()
        ok = not any(checks.values())
        told = {name: problem or "ok" for name, problem in checks.items()}
        await answer_json(request, 200 if ok else 503, {"ok": ok, "checks": told})

    routes: Mapping[str, Handler] = {"/healthz": health, "/readyz": ready}

    def match(request: WebRequest) -> Handler | None:
        handler = routes.get(request.path)
        if handler is None:
            return None
        request.template = request.path
        if request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowedError("not with this method", allow="GET, HEAD")
        return handler

    return Front(match, None, limits)

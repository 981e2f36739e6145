"""A bucket over HTTP: uploads, blobs, references."""

from __future__ import annotations

from typing import Final, Protocol

from ostnode.config import HttpLimits
from ostnode.errors import InternalError, MethodNotAllowedError, error_class
from ostnode.web.asgi import WebRequest
from ostnode.web.downloads import TEMPLATE, BlobSource, Downloads
from ostnode.web.front import Front, Handler
from ostnode.web.jsonroutes import Fields, Route, json_app
from ostnode.web.sessions import Sessions
from ostnode.web.uploads import BLOBS_TEMPLATE, CHUNKS_TEMPLATE, GrantGate, Uploads
from ostnode.wire import messages as m
from ostnode.wire import upkeep
from ostnode.wire.calls import Service
from ostnode.wire.fields import Message


def _one_reference(fields: Fields) -> Fields:
    """DELETE of one reference: a batch of one."""
    key = {"ref_id" if name == "ref" else name: value for name, value in fields.items()}
    return {"references": [key]}


def _only_result(message: Message) -> Message:
    """The result of a batch of one, raised if it is a refusal."""
    if not isinstance(message, m.BatchResult) or len(message.results) != 1:
        raise InternalError
    (result,) = message.results
    if result.code:
        raise error_class(result.code)(result.message)
    return m.Ok()


BUCKET_ROUTES: Final = (
    Route("GET", "/v1/uploads/<blob_id>", m.UploadStatus),
    Route("DELETE", "/v1/uploads/<blob_id>", m.CancelUpload),
    Route("POST", "/v1/references", m.AddReference, body=True),
    Route("POST", "/v1/references/remove", m.RemoveReferences, body=True),
    Route("GET", "/v1/info/<accessor>/<blob_id>", m.BlobInfoRequest),
    Route(
        "DELETE",
        "/<string(length=63):accessor>/<string(length=64):blob_id>",
        m.RemoveReferences,
        shape=_one_reference,
        result=_only_result,
    ),
    Route("GET", "/v1/maintenance", upkeep.MaintenanceStatus),
    Route("POST", "/v1/maintenance/compaction", upkeep.CompactBucket, body=True),
    Route("POST", "/v1/maintenance/pause", upkeep.PauseMaintenance, body=True),
    Route("POST", "/v1/maintenance/scrub", upkeep.StartScrub),
    Route("DELETE", "/v1/maintenance/findings", upkeep.ForgetFindings),
)


class BucketBytes(BlobSource, GrantGate, Protocol):
    """What the routes that carry bytes ask of the bucket role, beside its calls."""


def make_bucket_app(
    service: Service, bucket: BucketBytes, sessions: Sessions, limits: HttpLimits
) -> Front:
    """The ASGI application of a bucket's HTTP listener."""
    routes = _BareRoutes(Uploads(service, bucket, sessions), Downloads(bucket, sessions))
    app = json_app("bucket", BUCKET_ROUTES, service, sessions, limits)
    return Front(routes.match, app, limits)


class _BareRoutes:
    """The routes that carry bytes."""

    def __init__(self, uploads: Uploads, downloads: Downloads) -> None:
        self._uploads = uploads
        self._downloads = downloads

    def match(self, request: WebRequest) -> Handler | None:
        """The handler of a bare route; None for the JSON routes."""
        method, segments = request.method, request.path.split("/")[1:]
        match segments:
            case ["v1", "chunks"]:
                request.template = CHUNKS_TEMPLATE
                return _only(method, "POST", self._uploads.push_chunk)
            case ["v1", "blobs", _]:
                request.template = BLOBS_TEMPLATE
                return _only(method, "PUT", self._uploads.put_blob)
            case [first, _] if first != "v1" and method != "DELETE":
                request.template = TEMPLATE
                if method in {"GET", "HEAD"}:
                    return self._downloads.serve
                raise MethodNotAllowedError("not with this method", allow="GET, HEAD, DELETE")
            case _:
                return None


def _only(method: str, allowed: str, handler: Handler) -> Handler:
    if method != allowed:
        raise MethodNotAllowedError("not with this method", allow=allowed)
    return handler

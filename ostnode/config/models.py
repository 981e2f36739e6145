"""The config file's tables, as frozen models. Sizes are bytes, durations seconds.

Rules between keys of one table stand in field validators, which run although other keys are
wrong; rules between tables stand in `ostnode.config.loading`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
)

from ostnode.config.joining import JoinToken, join_text, parse_join
from ostnode.config.values import (
    Address,
    Apps,
    BadValueError,
    Buckets,
    Cluster,
    Count,
    Duration,
    FilePath,
    IndexPrincipal,
    Operators,
    OptionalAddress,
    OptionalUrl,
    Origins,
    Share,
    Size,
    Skew,
    WholeSeconds,
    none_if_empty,
    split_list,
)

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
CHUNK_BYTES_MIN: Final = 4 * KIB
CHUNK_BYTES_MAX: Final = MIB
"""One chunk is the body of one frame of the peer protocol, which is at most this."""
BATCH_BYTES_MIN: Final = CHUNK_BYTES_MAX + 64 * KIB
"""A batch must hold the largest chunk and the records that complete its upload."""
SEGMENT_BYTES_MIN: Final = 8 * MIB
SEGMENT_BYTES_MAX: Final = 4 * GIB
LOST_AFTER_MIN: Final = 30.0
"""Buckets report every 10 s, and a link that is cut takes some seconds to be made again."""
PROVISION_RETRY_MAX: Final = 86_400
RATE_MIN: Final = 64 * KIB
"""Bytes per second; slower background work would never come to its end."""
PORTS_UNUSABLE_IN_A_URL: Final = ("0.0.0.0:", "[::]:")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class LogConfig(_Table):
    """[log]: lines on standard error."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class NodeConfig(_Table):
    """[node]: the process. Without `peer_tls` peer links are in plain text, on loopback only.

    `peer_links_max` is of each role. A link can have 2 MiB of bodies in hand, one each way, beside
    64 MiB each way for those of the role together.
    """

    shutdown_deadline: Duration = 10.0
    peer_tls: bool = True
    peer_links_max: Annotated[int, Field(ge=16, le=65_536)] = 320


class HttpLimits(_Table):
    """[http]: what every HTTP listener of the process holds its clients to.

    `request_body_max` bounds JSON bodies; streamed bodies are bounded by their grant. Bodies
    must move at `body_rate_min` bytes per second in either direction, with a credit of
    `body_grace` for one that arrives and of `send_timeout` for one that is taken. Of a refused
    body `drain_max` bytes are read, so that the client sees the answer and no broken pipe.
    """

    connections_max: Count = 1000
    header_bytes_max: Annotated[Size, Field(ge=4 * KIB, le=MIB)] = 32 * KIB
    header_timeout: Duration = 10.0
    keep_alive: Duration = 60.0
    request_body_max: Annotated[Size, Field(ge=4 * KIB, le=64 * MIB)] = MIB
    body_rate_min: Annotated[Size, Field(ge=1)] = 8 * KIB
    body_grace: Duration = 15.0
    send_timeout: Duration = 20.0
    drain_max: Size = MIB
    cors_origins: Origins = ()


class TokensConfig(_Table):
    """[tokens]: how long signed statements live at most, and how far clocks may differ."""

    read_ttl_max: WholeSeconds = 3600
    delete_ttl_max: WholeSeconds = 60
    session_ttl: WholeSeconds = 900
    login_ttl: WholeSeconds = 60
    skew: Skew = 60


class _RoleConfig(_Table):
    """What [index] and [[bucket]] have in common."""

    key_file: FilePath
    data_dir: FilePath
    http: Address
    peer: Address
    admin: Address
    apps: Apps = ()
    operators: Operators = ()


class IndexConfig(_RoleConfig):
    """[index]: users, allowances, placements. `buckets` are members beforehand.

    `public_peer` is what join tokens say; it is empty when `peer` does not tell, either. The key in
    `next_key_file` is announced; when it has become `key_file`, the one before counts for
    `key_overlap` more.

    `target_active` buckets are kept active, with `headroom` bytes free among them; 0 is no target,
    and then every bucket is activated. Too few, `provisioner` makes one: `local` on this host in
    `provision_dir`, to be reached at `provision_host`; `command` by running `provision_command`.
    One that has not reported after `provision_retry` is ordered again.
    """

    apps: Annotated[Apps, Field(min_length=1)]
    buckets: Annotated[Buckets, Field(max_length=256)] = ()
    public_peer: Annotated[OptionalAddress, Field(validate_default=True)] = ""
    next_key_file: Annotated[FilePath | None, BeforeValidator(none_if_empty)] = None
    key_overlap: WholeSeconds = 7 * 86_400
    chunk_bytes: Annotated[Size, Field(ge=CHUNK_BYTES_MIN, le=CHUNK_BYTES_MAX)] = MIB
    blob_bytes_max: Annotated[Size, Field(ge=1)] = 16 * GIB
    grant_ttl: WholeSeconds = 3600
    user_grants_max: Count = 1000
    user_blobs_max: Count = 1_000_000
    accessor_deletions_per_day: Count = 1000
    bucket_full_at: Share = 0.95
    bucket_back_at: Annotated[Share, Field(validate_default=True)] = 0.90
    push_interval: Duration = 1.0
    target_active: Annotated[int, Field(ge=0, le=256)] = 0
    headroom: Size = 0
    lost_after: Annotated[Duration, Field(ge=LOST_AFTER_MIN)] = 300.0
    provisioner: Literal["none", "local", "command"] = "none"
    provision_command: Annotated[
        tuple[str, ...], BeforeValidator(split_list), Field(validate_default=True)
    ] = ()
    provision_dir: Annotated[
        FilePath | None, BeforeValidator(none_if_empty), Field(validate_default=True)
    ] = None
    provision_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    provision_retry: Annotated[WholeSeconds, Field(le=PROVISION_RETRY_MAX)] = 600

    @field_validator("provisioner")
    @classmethod
    def _reachable(cls, provisioner: str, info: ValidationInfo) -> str:
        if provisioner != "none" and not info.data.get("public_peer", "unknown"):
            raise BadValueError(
                "new buckets cannot be told where to reach the index", "set public_peer"
            )
        return provisioner

    @field_validator("provision_command")
    @classmethod
    def _command_to_run(cls, command: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("provisioner") == "command" and not command:
            raise BadValueError(
                'provisioner is "command" and this is empty',
                'write the program and its arguments, like ["/usr/local/bin/new-bucket"]',
            )
        return command

    @field_validator("provision_dir")
    @classmethod
    def _place_to_use(cls, place: Path | None, info: ValidationInfo) -> Path | None:
        if info.data.get("provisioner") == "local" and place is None:
            raise BadValueError('provisioner is "local" and this is empty', "name a directory")
        return place

    @field_validator("public_peer")
    @classmethod
    def _from_peer(cls, address: str, info: ValidationInfo) -> str:
        peer: str = info.data.get("peer", "")
        unusable = peer.endswith(":0") or peer.startswith(PORTS_UNUSABLE_IN_A_URL)
        return address or ("" if unusable else peer)

    @field_validator("buckets")
    @classmethod
    def _each_once(cls, buckets: Buckets) -> Buckets:
        if len(set(buckets)) != len(buckets):
            raise BadValueError("a bucket is named twice", "name each bucket once")
        return buckets

    @field_validator("bucket_back_at")
    @classmethod
    def _below_full(cls, back_at: float, info: ValidationInfo) -> float:
        if back_at >= info.data.get("bucket_full_at", 1):
            raise BadValueError(
                f"{back_at} is not below bucket_full_at",
                "leave a gap, like 0.90 below 0.95, or buckets flap between full and active",
            )
        return back_at


class BucketConfig(_RoleConfig):
    """One [[bucket]]: blobs and references, served over HTTP at `public_url`.

    Its index is `index` at `index_peer`, or that of `join`; without either it is the one that the
    bucket has joined before. `public_url` is empty when `http` leaves the port to the system: the
    node fills it in. `zone` is what the bucket fails together with; `weight` its share of new blobs
    beside others', 0 for the size of its disk.
    """

    public_url: Annotated[OptionalUrl, Field(validate_default=True)] = ""
    index: IndexPrincipal | None = None
    index_peer: Annotated[OptionalAddress, Field(validate_default=True)] = ""
    join: Annotated[JoinToken | None, BeforeValidator(parse_join), PlainSerializer(join_text)] = (
        None
    )
    zone: Annotated[str, Field(max_length=32)] = ""
    weight: Size = 0
    segment_bytes: Annotated[Size, Field(ge=SEGMENT_BYTES_MIN, le=SEGMENT_BYTES_MAX)] = 256 * MIB
    batch_bytes_max: Annotated[
        Size, Field(ge=BATCH_BYTES_MIN, le=64 * MIB, validate_default=True)
    ] = 5 * MIB
    """Room for four chunks of 1 MiB and their headers; larger measured no faster."""
    upload_ttl: WholeSeconds = 86_400
    floor_interval: Duration = 60.0
    user_uploads_max: Count = 64
    user_references_max: Count = 1_000_000
    verify_reads: bool = True
    compact_below: Annotated[float, Field(gt=0, lt=1)] = 0.5
    compaction_rate: Annotated[Size, Field(ge=RATE_MIN)] = 64 * MIB
    compaction_interval: Duration = 60.0
    scrub_period: Duration = 14 * 86_400.0
    scrub_rate_max: Annotated[Size, Field(ge=RATE_MIN)] = 64 * MIB

    @field_validator("index_peer")
    @classmethod
    def _beside_index(cls, peer: str, info: ValidationInfo) -> str:
        if "index" in info.data and (info.data["index"] is None) is bool(peer):
            raise BadValueError(
                "index and index_peer go together",
                "give both, or neither and `join`, which `ostnode bucket invite` prints",
            )
        return peer

    @field_validator("join")
    @classmethod
    def _instead_of_index(cls, join: JoinToken | None, info: ValidationInfo) -> JoinToken | None:
        if join is not None and info.data.get("index") is not None:
            raise BadValueError("index is given too", "remove it and index_peer: join names both")
        return join

    @field_validator("public_url")
    @classmethod
    def _from_http(cls, url: str, info: ValidationInfo) -> str:
        http: str = info.data.get("http", "")
        if url or not http or http.endswith(":0"):
            return url
        if http.startswith(PORTS_UNUSABLE_IN_A_URL):
            raise BadValueError(
                f"it cannot be guessed from http = {http!r}",
                'say where clients reach this bucket, like "https://bucket-1.example.org"',
            )
        return f"http://{http}"

    @field_validator("batch_bytes_max")
    @classmethod
    def _fits_a_segment(cls, batch_bytes: int, info: ValidationInfo) -> int:
        if batch_bytes >= info.data.get("segment_bytes", SEGMENT_BYTES_MAX):
            raise BadValueError(
                f"{batch_bytes} bytes do not fit a segment", "keep it well below segment_bytes"
            )
        return batch_bytes


class Config(_Table):
    """A node: an index, buckets, or both in one process."""

    cluster_id: Cluster
    log: LogConfig = LogConfig()
    node: NodeConfig = NodeConfig()
    http: HttpLimits = HttpLimits()
    tokens: TokensConfig = TokensConfig()
    index: IndexConfig | None = None
    bucket: tuple[BucketConfig, ...] = ()

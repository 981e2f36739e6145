"""A bucket role, put together from its config, and its link to the index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from ostnode.config import BucketConfig, Config
from ostnode.errors import OstError, first_failure
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import Principal, PrincipalKind
from ostnode.net.dial import dial_forever
from ostnode.net.link import Link, open_link
from ostnode.net.transport import Network
from ostnode.node.belonging import Belonging, find_index
from ostnode.node.errors import StartError
from ostnode.node.listeners import bind_early
from ostnode.node.metrics import bucket_figures
from ostnode.node.role import Role, kinds_from, load_key, token_limits
from ostnode.node.seams import Seams
from ostnode.roles.bucket.opening import Bucket, open_bucket
from ostnode.roles.bucket.options import BucketOptions, UpkeepOptions, no_address
from ostnode.store.errors import StoreLockedError, StoreOwnerError
from ostnode.store.store import StoreOptions
from ostnode.web.bucket_app import make_bucket_app
from ostnode.web.sessions import Sessions
from ostnode.wire.calls import Kind
from ostnode.wire.session import ROSTER

UNREACHABLE: Final = "the index is not reachable"
READ_THREADS: Final = 3
"""For hashes and cold reads of one bucket; its log has a thread of its own."""


@asynccontextmanager
async def open_bucket_role(
    name: str, config: Config, bucket: BucketConfig, seams: Seams
) -> AsyncIterator[Role]:
    """A bucket on its log, with its background work and a link to the index that is redialled.

    Raises StartError or KeyFileError.
    """
    key = load_key(bucket, seams.load_seed)
    http, url = bucket.http, bucket.public_url
    if not url:
        http, bound = bind_early(f"{name}.http", bucket.http)
        url = f"http://{bound}"
    memory = seams.make_memory(bucket.data_dir)
    remembered = memory.load()
    place = find_index(name, bucket, config.cluster_id, remembered)
    named = remembered.bucket if remembered else key.principal
    belonging = Belonging(
        place,
        named,
        key.principal,
        config.cluster_id,
        remembered,
        memory,
        seams.make_worker(1),
        seams.clock.now,
        changes=seams.load_changes(bucket.data_dir),
    )
    options = bucket_options(
        config,
        bucket,
        named,
        remembered.index if remembered else place.index,
        belonging,
    )
    try:
        async with open_bucket(
            options,
            disk=seams.make_disk(bucket.data_dir),
            clock=seams.clock,
            rng=seams.rng,
            worker=seams.make_worker(1),
            read_worker=seams.make_worker(READ_THREADS),
            maintenance_worker=seams.make_worker(1),
        ) as opened:
            network = seams.peers(key, tls=config.node.peer_tls)
            talk = _IndexTalk(opened, belonging, key, url, seams, network)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk.run)
                yield _role(name, config, bucket, key, http, opened, talk, seams)
                nursery.cancel_scope.cancel()
    except (StoreLockedError, StoreOwnerError) as error:
        raise StartError(str(error), f"see {name}.data_dir and {name}.key_file") from error


class _IndexTalk:
    """The bucket's one link to its index, kept for as long as the bucket is open."""

    def __init__(
        self,
        opened: Bucket,
        belonging: Belonging,
        key: KeyPair,
        url: str,
        seams: Seams,
        network: Network,
    ) -> None:
        self.network = network
        self._opened = opened
        self.belonging = belonging
        self._key = key
        self._url = url
        self._seams = seams
        self._linked = False
        self._problem = UNREACHABLE

    async def run(self) -> None:
        """Dial, talk, and dial again."""
        await dial_forever(self._dial, self._use, rng=self._seams.rng)

    def checks(self) -> Mapping[str, str]:
        """For /readyz."""
        return {"index": "" if self._linked else self._problem, **self.belonging.checks()}

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[Link]:
        problem = UNREACHABLE
        try:
            async with open_link(
                self.network,
                self.belonging.place.peer,
                signer=self._key,
                verify=verify,
                expect=self.belonging.expected(),
                rng=self._seams.rng,
                limits=self._seams.link_limits,
                roster_epoch=self.belonging.epoch,
            ) as link:
                yield link
        except* OstError as refused:
            problem = f"not at work with the index: {first_failure(refused)}"
            raise
        finally:
            self._problem = problem

    async def _use(self, link: Link) -> None:
        self._linked = True
        self.belonging.reached()
        try:
            if ROSTER not in link.features:
                await self._opened.sync.run(link, self._url)
                return
            await self.belonging.enter(link)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.belonging.follow, link)
                nursery.start_soon(self._opened.sync.run, link, self._url)
        finally:
            self._linked = False


def _role(
    name: str,
    config: Config,
    bucket: BucketConfig,
    key: KeyPair,
    http: str,
    opened: Bucket,
    talk: _IndexTalk,
    seams: Seams,
) -> Role:
    by_config = kinds_from({Kind.APP: bucket.apps, Kind.OPERATOR: bucket.operators})

    def kinds_of(principal: Principal) -> frozenset[Kind]:
        is_index = principal in talk.belonging.index_keys()
        return by_config(principal) | ({Kind.INDEX} if is_index else frozenset())

    service = opened.service
    sessions = Sessions(
        key,
        clock=seams.clock,
        limits=token_limits(config.tokens),
        kinds_of=kinds_of,
        is_blocked=service.is_blocked,
        names=lambda: (talk.belonging.bucket,),
    )
    return Role(
        name=name,
        config=bucket,
        key=key,
        network=talk.network,
        links_max=config.node.peer_links_max,
        kind=Kind.BUCKET,
        printed_as=PrincipalKind.BUCKET,
        service=service,
        make_app=partial(make_bucket_app, service, service, sessions, config.http),
        http=http,
        kinds_of=kinds_of,
        checks=talk.checks,
        figures=partial(bucket_figures, opened.store, opened.maintenance),
        roster_epoch=lambda: talk.belonging.epoch,
        named=talk.belonging.bucket,
    )


def bucket_options(
    config: Config,
    bucket: BucketConfig,
    named: Principal,
    index: Principal,
    belonging: Belonging | None = None,
) -> BucketOptions:
    """The config's [[bucket]] as the role takes it: its name, and the index whose grants count."""
    return BucketOptions(
        principal=named,
        index=index,
        index_keys=belonging.index_keys if belonging else None,
        address_of=belonging.address_of if belonging else no_address,
        zone=bucket.zone,
        weight=bucket.weight,
        cluster_id=config.cluster_id,
        user_uploads_max=bucket.user_uploads_max,
        user_references_max=bucket.user_references_max,
        upload_ttl_s=bucket.upload_ttl,
        floor_interval_s=bucket.floor_interval,
        tokens=token_limits(config.tokens),
        store=StoreOptions(
            segment_bytes=bucket.segment_bytes,
            batch_bytes_max=bucket.batch_bytes_max,
            verify_reads=bucket.verify_reads,
        ),
        upkeep=UpkeepOptions(
            compact_below=bucket.compact_below,
            compaction_rate=bucket.compaction_rate,
            compaction_interval_s=bucket.compaction_interval,
            scrub_period_s=bucket.scrub_period,
            scrub_rate_max=bucket.scrub_rate_max,
        ),
    )

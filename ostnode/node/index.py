"""The index role, put together from its config."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from ostnode.config import Config, IndexConfig
from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal, PrincipalKind
from ostnode.keyfiles import KeyFileError, load_seed
from ostnode.node.errors import StartError
from ostnode.node.indexmetrics import index_figures
from ostnode.node.provisioning import open_provider
from ostnode.node.role import Role, kinds_from, load_key, token_limits
from ostnode.node.seams import Seams
from ostnode.roles.index import DatabaseUnusableError, IndexOptions, IndexService, Rules, open_index
from ostnode.web.index_app import make_index_app
from ostnode.web.sessions import Sessions
from ostnode.wire.calls import Kind


@asynccontextmanager
async def open_index_role(config: Config, index: IndexConfig, seams: Seams) -> AsyncIterator[Role]:
    """An index on its database, with its heartbeat; raises StartError or KeyFileError."""
    key = load_key(index, seams.load_seed)
    named = kinds_from({Kind.APP: index.apps, Kind.OPERATOR: index.operators})
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(
            open_provider(config, index, key.principal, seams)
        )
        options = replace(index_options(config, index, seams.load_seed), provider=provider)
        service = await stack.enter_async_context(_open(options, key, seams))
        membership = service.membership

        def kinds_of(principal: Principal) -> frozenset[Kind]:
            return named(principal) | membership.kinds(principal)

        sessions = Sessions(
            key,
            clock=seams.clock,
            limits=options.tokens,
            kinds_of=kinds_of,
            is_blocked=service.is_blocked,
            names=membership.names,
        )
        yield Role(
            name="index",
            config=index,
            key=key,
            network=seams.peers(key, tls=config.node.peer_tls),
            links_max=config.node.peer_links_max,
            kind=Kind.INDEX,
            printed_as=PrincipalKind.INDEX,
            service=service,
            make_app=partial(make_index_app, service, sessions, config.http),
            http=index.http,
            kinds_of=kinds_of,
            checks=dict,
            figures=partial(index_figures, service.insight),
            kinds_news=lambda: membership.news,
            roster_epoch=lambda: membership.epoch,
        )


@asynccontextmanager
async def _open(options: IndexOptions, key: KeyPair, seams: Seams) -> AsyncIterator[IndexService]:
    """The index on its database; raises StartError, before a nursery outside wraps the reason."""
    try:
        async with open_index(
            options,
            key,
            clock=seams.clock,
            rng=seams.rng,
            worker=seams.make_worker(1),
            make_database=seams.make_database,
        ) as service:
            yield service
    except DatabaseUnusableError as error:
        raise StartError(str(error), "see index.data_dir and index.key_file") from error


def index_options(
    config: Config, index: IndexConfig, load: Callable[[Path], bytes] = load_seed
) -> IndexOptions:
    """The config's [index] as the role takes it."""
    return IndexOptions(
        cluster_id=config.cluster_id,
        buckets=index.buckets,
        peer=index.public_peer,
        successor=_successor(index, load),
        key_overlap_s=index.key_overlap,
        data_dir=index.data_dir,
        rules=_rules(index),
        tokens=token_limits(config.tokens),
        push_interval_s=index.push_interval,
        lost_after_s=index.lost_after,
        provision_retry_s=index.provision_retry,
        operators=frozenset(index.operators),
    )


def _successor(index: IndexConfig, load: Callable[[Path], bytes]) -> Principal | None:
    """The principal of the key to come; raises KeyFileError."""
    if index.next_key_file is None:
        return None
    try:
        return KeyPair.from_seed(load(index.next_key_file)).principal
    except KeyFileError as error:
        hint = f"{error.hint}; index.next_key_file names it: empty that if no key is to follow"
        raise KeyFileError(error.path, error.problem, hint) from None


def _rules(index: IndexConfig) -> Rules:
    return Rules(
        chunk_bytes=index.chunk_bytes,
        blob_bytes_max=index.blob_bytes_max,
        grant_ttl_s=index.grant_ttl,
        user_grants_max=index.user_grants_max,
        user_blobs_max=index.user_blobs_max,
        accessor_deletions_per_day=index.accessor_deletions_per_day,
        bucket_full_at=index.bucket_full_at,
        bucket_back_at=index.bucket_back_at,
        target_active=index.target_active,
        headroom_bytes=index.headroom,
    )

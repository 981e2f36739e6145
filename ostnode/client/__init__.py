"""The Python client: `connect` for Trio programs, `blocking.connect` for all others.

async with connect("http://127.0.0.1:7100", key, index=index) as client:
    blob = await client.upload(Path("cat.png"), accessors=[chat])
    await client.download(chat, blob.reference.blob_id, to=Path("copy.png"), token=token)
"""

from ostnode.client.allocating import UploadedBlob
from ostnode.client.client import Client, connect
from ostnode.client.downloads import Downloaded
from ostnode.client.errors import (
    BadAnswerError,
    ClientError,
    IntegrityError,
    SourceChangedError,
    UnreachableError,
)
from ostnode.client.options import Attempt, ClientOptions, Observer
from ostnode.client.peer import PeerClient, connect_peer
from ostnode.client.progress import Phase, Progress, ProgressCallback
from ostnode.client.retry import RetryPolicy
from ostnode.client.source import Source
from ostnode.client.streams import BlobStream, ByteRange
from ostnode.client.tokens import mint_accessor_delete, mint_read, mint_ref_delete

__all__ = [
    "Attempt",
    "BadAnswerError",
    "BlobStream",
    "ByteRange",
    "Client",
    "ClientError",
    "ClientOptions",
    "Downloaded",
    "IntegrityError",
    "Observer",
    "PeerClient",
    "Phase",
    "Progress",
    "ProgressCallback",
    "RetryPolicy",
    "Source",
    "SourceChangedError",
    "UnreachableError",
    "UploadedBlob",
    "connect",
    "connect_peer",
    "mint_accessor_delete",
    "mint_read",
    "mint_ref_delete",
]

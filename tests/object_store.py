"""A real S3-compatible server on this machine."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import s3fs
from moto.server import ThreadedMotoServer


@contextmanager
def object_store(bucket: str, keys: Mapping[str, str]) -> Iterator[str]:
    """The address of a server with one bucket.

    Servers of one process share their buckets, so each has a name of its own.
    """
    server = ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    s3fs.S3FileSystem(**keys, endpoint_url=address, skip_instance_cache=True).mkdir(bucket)
    try:
        yield address
    finally:
        server.stop()

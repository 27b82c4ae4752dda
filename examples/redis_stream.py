"""
A Redis stream, learned exactly once
====================================

Learn the entries of a Redis stream exactly once, though the process that learns is killed.

Run it in an empty folder: ``python redis_stream.py``. It needs ``streamgmm[redis]`` and Debian's
``redis-server``, of which it starts one of its own, in a temporary folder. It writes ``model.gmm``.

A consumer group hands out each entry once, and again to a consumer that has not acknowledged
it. Entries are acknowledged when the model's file says that they are learned; a process that dies
between the two is handed the same entries again, in a batch of the same id, which the model knows.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

import streamgmm

STREAM, GROUP, CONSUMER = "measurements", "models", "model.gmm"
N_ENTRIES, BATCH_ENTRIES = 20_000, 1_000
CENTRES = np.array([[-4.0, 0.0, 0.0, 1.0], [0.0, 4.0, 0.0, -1.0], [4.0, 0.0, 4.0, 0.0]])


def connected(socket: str) -> redis.Redis:
    """A client of the server, which may need a moment to be there."""
    retry = Retry(ConstantBackoff(0.05), 200, (redis.ConnectionError, FileNotFoundError))
    return redis.Redis(unix_socket_path=socket, retry=retry)


def produce(client: redis.Redis) -> None:
    """Entries of a row each."""
    random = np.random.default_rng(0)
    rows = CENTRES[random.integers(3, size=N_ENTRIES)] + random.normal(size=(N_ENTRIES, 4))
    client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    with client.pipeline(transaction=False) as pipeline:
        for row in rows:
            pipeline.xadd(STREAM, {"row": row.tobytes()})
        pipeline.execute()


def consume(client: redis.Redis, dies_in_batch: int) -> None:
    """Learn until there is nothing new, or be killed at the worst moment of some batch."""
    n_batches = 0
    while True:
        # First what was handed out and not acknowledged, then what is new.
        for start in ("0", ">"):
            ((_, entries),) = client.xreadgroup(
                GROUP, CONSUMER, {STREAM: start}, count=BATCH_ENTRIES
            ) or [(STREAM, [])]
            if entries:
                break
        else:
            return
        ids = [number for number, _ in entries]
        rows = np.stack([np.frombuffer(fields[b"row"]) for _, fields in entries])
        streamgmm.update(
            "model.gmm",
            rows,
            batch_id=ids[-1].decode(),
            n_components=3,
            random_state=0,
            callbacks=[lambda event: print(f"  {type(event).__name__}", flush=True)],
        )
        n_batches += 1
        if n_batches == dies_in_batch:
            os.kill(os.getpid(), signal.SIGKILL)
        client.xack(STREAM, GROUP, *ids)


def main() -> None:
    server_program = shutil.which("redis-server")
    if server_program is None:
        sys.exit("redis-server is not installed; apt-get install redis-server brings it")
    if Path("model.gmm").exists():
        sys.exit("model.gmm is here already, and would continue with other entries; move it away")
    with tempfile.TemporaryDirectory() as folder:
        socket = str(Path(folder) / "redis.sock")
        settings = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
        server = subprocess.Popen([server_program, *settings], stdout=subprocess.DEVNULL)
        try:
            with connected(socket) as client:
                produce(client)
                # Two consumers die after the model was saved, before they say so; the third one
                # is handed what they left.
                for dies_in_batch in (5, 8, 0):
                    print("a consumer begins")
                    command = [sys.executable, __file__, socket, str(dies_in_batch)]
                    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                    told = ended.stdout.split()
                    learned, known = told.count("RowsLearned"), told.count("BatchKnown")
                    print(f"  {learned} batches learned, {known} known from before", end="")
                    print(", then killed" if ended.returncode == -signal.SIGKILL else "")
                n_pending = client.xpending(STREAM, GROUP)["pending"]
                print(f"{client.xlen(STREAM):,} entries, {n_pending} of them not acknowledged")
        finally:
            server.terminate()
            server.wait()
    model = streamgmm.load("model.gmm")
    print(f"{model.n_samples_seen_:,.0f} rows learned; means, each row a component:")
    print(model.means_[np.argsort(model.means_[:, 0])].round(2))
    assert model.n_samples_seen_ == N_ENTRIES


if __name__ == "__main__":
    if len(sys.argv) == 3:
        with connected(sys.argv[1]) as connection:
            consume(connection, int(sys.argv[2]))
    else:
        main()

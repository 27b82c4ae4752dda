"""Asynchronous reading within the thread that asks for it."""

import asyncio
from collections.abc import Callable
from typing import Any


class OneThreadLoop(asyncio.SelectorEventLoop):
    """An event loop that does itself what it is asked to hand to another thread.

    Zarr, for instance, hands over each fetch and each decompression. Our chunks are read in
    threads of their own already; so rows stay in one thread, and threads do not outnumber cores.
    """

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, function: Callable[..., Any], *arguments: Any
    ) -> "asyncio.Future[Any]":
        """Call a function at once."""
        done = self.create_future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes to who asked
            done.set_exception(error)
        return done


def in_event_loop() -> bool:
    """Return whether the calling thread runs an event loop, and so cannot run another."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

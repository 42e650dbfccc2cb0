"""Races with real connections: many callers at once, or one that is seen waiting for another."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.database import Database

__all__ = ["again_when_told", "all_at_once", "start_and_see_it_wait"]

T = TypeVar("T")


def all_at_once(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run every job in a thread of its own, released together; their answers in order, or the first error."""
    gate = threading.Barrier(len(jobs))

    def run(job: Callable[[], T]) -> T:
        gate.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(run, job) for job in jobs]
    return [done.result() for done in running]


def again_when_told(job: Callable[[], T]) -> T:
    """Do what the bridge does: a call that is answered ``try_again`` is made again, a few times."""
    for _ in range(5):
        try:
            return job()
        except psycopg.Error as error:
            if error.diag.message_detail != "try_again":
                raise
            time.sleep(0.02)
    return job()


def start_and_see_it_wait(db: Database, job: Callable[[], T]) -> Future[T]:
    """Start a job that must wait for a lock that the caller holds; returns once the server says that it waits."""
    running: Future[T] = Future()

    def run() -> None:
        try:
            running.set_result(job())
        except Exception as error:  # noqa: BLE001 - handed to the test by the future
            running.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    for _ in range(1000):
        if db.value(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ):
            return running
        assert not running.done(), f"it did not wait: {running.exception() or running.result()!r}"
        time.sleep(0.01)
    raise AssertionError("it was never seen waiting")

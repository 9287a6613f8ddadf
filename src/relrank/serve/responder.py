"""Computes answers at once where that is fast, else in a thread, so that no request blocks the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.responses import Response

from relrank.serve.limits import RequestError
from relrank.serve.prometheus import ServiceMetrics
from relrank.serve.responses import json_response
from relrank.serve.served_model import INDEXED_ITEMS
from relrank.serve.service import Service

Task = Callable[[], dict[str, Any]]


class Responder:
    """Answers of one service, with their metrics.

    Attributes:
        service: computes the answers.
        metrics: where the lengths of lists are counted.
        n_pending: tasks in threads, running or queued.
    """

    def __init__(self, service: Service, metrics: ServiceMetrics) -> None:
        self.service, self.metrics, self.n_pending = service, metrics, 0
        self._start_pools()

    def _start_pools(self) -> None:
        limits = self.service.limits
        self._pool = ThreadPoolExecutor(limits.threads, "relrank-slow")
        self._reweighting_pool = ThreadPoolExecutor(limits.waiting + 1, "relrank-weights")

    async def ranked_list(
        self, route: str, run: str | None, task: Task, *, is_simple: bool = False, has_weights: bool = False
    ) -> Response:
        """The response with the list that a task computes.

        Args:
            route: label in the metrics.
            run: name of the run.
            task: computes the list.
            is_simple: whether the list is one like those timed at the start: without filters, which may have to be
                evaluated, without a long history, and inside what an index finds. It is computed at once if the run
                is fast.
            has_weights: whether the request has relation weights of its own.
        """
        served = self.service.served(run)
        if is_simple and not has_weights and served.is_fast:
            content = task()
        else:
            content = await self.run_in_thread(task, has_weights)
        self.metrics.items.labels(route).observe(len(content["items"]))
        return json_response(content)

    def is_in_index(self, run: str | None, end: int) -> bool:
        """Whether the first ``end`` items of a list need no exact search behind an index."""
        return self.service.served(run).index is None or end <= INDEXED_ITEMS

    async def run_in_thread(self, task: Task, has_weights: bool = False) -> dict[str, Any]:
        """The result of a task in a thread; tasks with relation weights of their own have separate threads.

        Raises:
            RequestError: too many tasks are pending.
        """
        limits = self.service.limits
        if self.n_pending >= limits.queue:
            raise RequestError(
                503,
                "too many questions at once",
                where="server",
                expected=f"at most {limits.queue} that wait",
                found=str(self.n_pending),
            )
        self.n_pending += 1
        try:
            pool = self._reweighting_pool if has_weights else self._pool
            return await asyncio.get_running_loop().run_in_executor(pool, task)
        finally:
            self.n_pending -= 1

    def close(self) -> None:
        """Release the threads; the application may be started again."""
        for pool in (self._pool, self._reweighting_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        self._start_pools()

"""Metrics of one application, for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from relrank.serve.limits import MULTIPROC_DIR_VARIABLE

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LENGTH_BUCKETS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)


class ServiceMetrics:
    """Requests, latencies, lengths of lists, and loads of runs."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "relrank_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self.seconds = Histogram(
            "relrank_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("route", "status"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.items = Histogram(
            "relrank_list_items", "Items of an answered list.", ("route",), buckets=LENGTH_BUCKETS, registry=registry
        )
        self.loaded = Gauge(
            "relrank_run_loaded_timestamp_seconds",
            "When a run was loaded.",
            ("run",),
            registry=registry,
            multiprocess_mode="max",
        )
        self.failed = Counter(
            "relrank_run_load_failures", "Runs that could not take the place of another.", ("run",), registry=registry
        )

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus, summed over the worker processes if there are several."""
        if MULTIPROC_DIR_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        all_processes = CollectorRegistry()
        MultiProcessCollector(all_processes)  # type: ignore[no-untyped-call]
        return generate_latest(all_processes)

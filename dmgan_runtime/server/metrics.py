"""What Prometheus is told."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import Request
from starlette.responses import Response

from dmgan_runtime import Generator

_STAGE_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one application.

    With several processes the client library keeps them in the files of PROMETHEUS_MULTIPROC_DIR, and any process
    answers for all.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "dmgan_requests",
            "Requests that were answered; 499: the client left.",
            ["path", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "dmgan_request_seconds",
            "From a request's head to its answer's last byte.",
            ["path"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "dmgan_stage_seconds",
            "Of computing one stage of one image.",
            ["model", "resolution"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self.images = Counter(
            "dmgan_images", "Images that were made to their last stage.", ["model"], registry=registry
        )
        self.unknown_words = Counter(
            "dmgan_unknown_words", "Words of captions that the model does not know.", ["model"], registry=registry
        )
        self.waiting = Gauge(
            "dmgan_queue", "Requests that wait for a thread.", multiprocess_mode="livesum", registry=registry
        )
        self.running = Gauge(
            "dmgan_in_flight", "Requests that a thread works on.", multiprocess_mode="livesum", registry=registry
        )
        # A gauge, since the library's Info does not work with several processes.
        self.engine = Gauge(
            "dmgan_engine_info",
            "The engine of each model; always 1.",
            ["model", "backend", "version", "device", "precision"],
            multiprocess_mode="max",
            registry=registry,
        )

    def describe(self, model: str, generator: Generator) -> None:
        """Says which engine serves a model."""
        active = generator.active
        self.engine.labels(model, active.backend, active.version, active.device, active.precision).set(1)

    async def answer(self, _: Request) -> Response:
        """GET /metrics."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

"""Counters for Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """What a server counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        where: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "trimtab_requests", "Requests, by outcome and whether steered", ["outcome", "steered"], **where
        )
        self.tokens = Counter("trimtab_tokens", "Tokens generated, steered or not", ["steered"], **where)
        self.edited = Counter("trimtab_tokens_steered", "Tokens that a vector acted on", ["vector"], **where)
        self.seconds = Histogram("trimtab_request_seconds", "From the request to the end of its answer", **where)
        self.waiting = Gauge("trimtab_requests_open", "Requests that wait or are answered", **where)
        self.projection = Gauge(
            "trimtab_projection",
            "Mean projection of the stream on a vector's direction, in the last request",
            ["vector"],
            **where,
        )

    def request(self, outcome: str, receipt: dict[str, Any] | None, end: dict[str, Any] | None, seconds: float) -> None:
        """A request that is over."""
        steered = "no" if receipt is None else "yes"
        self.requests.labels(outcome, steered).inc()
        self.seconds.observe(seconds)
        if end is None:
            return
        self.tokens.labels(steered).inc(end["tokens"])
        for vector in () if receipt is None else receipt["vectors"]:
            n = max((end["edited"].get(str(k), 0) for k in vector["layers"]), default=0)
            self.edited.labels(vector["name"]).inc(n)
        for name, value in end["projection"].items():
            self.projection.labels(name).set(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)

"""The metrics in the text formats of Prometheus and OpenMetrics, by prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from asgi_poller.metrics.snapshot import Source
from asgi_poller.monitor.catalogue import CATALOGUE, Buckets, Metric

Expose = Callable[[str], tuple[bytes, str]]
"""From an Accept header to the text and its content type."""


def exposition(source: Source) -> Expose:
    """Exposes what `source` says at each call. The registry is its own: what the application has in
    the library's global one is the application's to show.
    """
    # it is imported where a monitor runs only
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    registry.register(_Collector(source))

    def expose(accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        text: bytes = encode(registry)
        return text, content_type

    return expose


class _Collector:
    """What prometheus-client asks (its prometheus_client.registry.Collector, by its method)."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Any]:
        """All metrics of this moment that have a value."""
        snapshot = self._source()
        total = snapshot.total
        for metric in CATALOGUE:
            family = _family(metric)
            for labels, value in metric.read(snapshot, total):
                if isinstance(value, Buckets):
                    family.add_metric(labels, _cumulative(value), value.total)
                else:
                    family.add_metric(labels, value)
            if family.samples:
                yield family

    def describe(self) -> list[Any]:
        """Nothing that could be taken for another collector's: the registry is ours alone."""
        return []


def _family(metric: Metric) -> Any:
    from prometheus_client import metrics_core

    families: dict[str, Any] = {
        "counter": metrics_core.CounterMetricFamily,
        "gauge": metrics_core.GaugeMetricFamily,
        "histogram": metrics_core.HistogramMetricFamily,
    }
    return families[metric.kind](metric.name, metric.help, labels=metric.labels)


def _cumulative(value: Buckets) -> list[tuple[str, float]]:
    """As Prometheus has them: each bucket counts the smaller ones too."""
    bounds = [*(f"{bound:g}" for bound in value.bounds), "+Inf"]
    counts = [*value.counts, *[0] * (len(bounds) - len(value.counts))]
    return list(zip(bounds, accumulate(counts), strict=True))

"""Metrics of the log itself, for daemons and gateways."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ravel_node.log_output import LogCounts


class LogCollector(Collector):
    """What became of log lines, at the moment of a scrape."""

    def __init__(self, counts: LogCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        dropped, withheld = self._counts.dropped, self._counts.withheld
        yield CounterMetricFamily("ravel_log_lines_dropped", "Log lines that stderr did not take.", value=dropped)
        yield CounterMetricFamily(
            "ravel_log_lines_withheld", "Log lines that were counted because they repeated.", value=withheld
        )

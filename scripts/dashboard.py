"""Writes deploy/grafana/towpath.json, the dashboard: ``make docs``. A test fails when they differ.

A table of rows and panels. Each panel has one question as its title, and shows one unit. Rows follow a request: the
users, the gateways and services, RabbitMQ, the databases, and the limits.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DASHBOARD: Final = Path(__file__).parent.parent / "deploy/grafana/towpath.json"

_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
#: Grid units: a dashboard is 24 wide.
_WIDTH: Final = 24
_HEIGHT: Final = 7


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        title: The question that it answers.
        unit: Of Grafana: https://grafana.com/docs/grafana/latest/panels-visualizations/configure-standard-options/
        series: The name of each series, with labels in double braces, and its expression.
        text: Explains a panel whose meaning is not plain.
        limit: A line above which something is wrong, drawn in red.
    """

    title: str
    unit: str
    series: Sequence[tuple[str, str]]
    text: str = ""
    limit: float | None = None


def p99(metric: str, by: str) -> str:
    """The 99th percentile of a histogram, for each value of the label ``by``."""
    return f"histogram_quantile(0.99, sum by ({by}, le) (rate({metric}_bucket[$__rate_interval])))"


def median(metric: str, by: str) -> str:
    """The median of the same."""
    return f"histogram_quantile(0.5, sum by ({by}, le) (rate({metric}_bucket[$__rate_interval])))"


def rate(metric: str, by: str) -> str:
    """The rate of a counter, per second, for each value of the label ``by``."""
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


GATEWAY: Final = 'job="towpath-gateway"'
SERVICES: Final = 'job=~"towpath-.+", job!="towpath-gateway"'

ROWS: Final[Sequence[tuple[str, Sequence[Panel]]]] = (
    (
        "Users",
        (
            Panel(
                "How many are connected?",
                "short",
                [("{{instance}}", f"connection_active{{{GATEWAY}}}")],
            ),
            Panel(
                "How much do they ask and hear?",
                "reqps",
                [
                    ("requests", f"sum(rate(messages_received_total{{{GATEWAY}}}[$__rate_interval]))"),
                    ("frames to clients", "sum(rate(messages_delivered_total[$__rate_interval]))"),
                ],
            ),
            Panel(
                "How long does an answer take?",
                "s",
                [
                    ("{{domain}} p99", p99("request_delay_seconds", "domain")),
                    ("{{domain}} p50", median("request_delay_seconds", "domain")),
                ],
                text="From the frame read to the answer handed to the socket.",
                limit=1,
            ),
            Panel(
                "How long does a push take?",
                "s",
                [("{{domain}} p99", p99("push_delay_seconds", "domain"))],
                text="From the service's timestamp to the hand-over to the socket: clocks have to agree.",
            ),
            Panel(
                "What is refused?",
                "reqps",
                [
                    (
                        "answered with an error by a gateway",
                        "sum(rate(requests_refused_total[$__rate_interval]))",
                    ),
                    ("over a rate limit", "sum(rate(rate_limited_total[$__rate_interval]))"),
                    ("too many in flight", "sum(rate(inflight_refused_total[$__rate_interval]))"),
                ],
            ),
            Panel(
                "How many come, and with which code do they go?",
                "cps",
                [
                    ("connects", "sum(rate(connections_opened_total[$__rate_interval]))"),
                    ("closed with {{code}}", rate("connections_closed_total", "code")),
                ],
            ),
        ),
    ),
    (
        "Programs",
        (
            Panel(
                "Which are ready?",
                "short",
                [("{{job}}", "sum by (job) (program_ready)")],
                text="Replicas that can do their work now.",
            ),
            Panel(
                "How much do services handle?",
                "reqps",
                [("{{job}}", rate(f"messages_received_total{{{SERVICES}}}", "job"))],
            ),
            Panel(
                "How long does a transaction take?",
                "s",
                [("{{job}} p99", p99("unit_of_work_seconds", "job"))],
                text="One batch of requests with its handlers, from begin to commit.",
            ),
            Panel(
                "What failed?",
                "short",
                [
                    ("{{job}} parked", "max by (job) (dead_letters_waiting)"),
                    ("{{job}} {{effect}} given up", "max by (job, effect) (effects_parked)"),
                ],
                text="They wait for an operator: towpath dead-letters list.",
                limit=1,
            ),
            Panel(
                "What waits?",
                "short",
                [
                    ("{{job}} outbox", "max by (job) (outbox_waiting)"),
                    ("{{job}} tried again", "sum by (job) (requests_in_trouble)"),
                    (
                        "{{queue}}",
                        "sum by (queue) (rabbitmq_detailed_queue_messages_ready"
                        '{queue=~".+[.](commands[.][0-7]|events)"})',
                    ),
                ],
                text="The queues of RabbitMQ count messages, each a batch.",
            ),
            Panel(
                "Who consumes the queues?",
                "short",
                [
                    ("{{job}} {{instance}}", "queues_consumed"),
                    ("{{job}} without a holder", "max by (job) (partitions_unheld)"),
                ],
            ),
        ),
    ),
    (
        "RabbitMQ",
        (
            Panel(
                "How long does a confirm take?",
                "s",
                [("{{job}} p99", p99("publish_confirm_seconds", "job"))],
                limit=1,
            ),
            Panel(
                "Is it there?",
                "short",
                [
                    ("{{job}} connected", "sum by (job) (broker_connected)"),
                    ("{{job}} blocked", "sum by (job) (broker_blocked)"),
                ],
            ),
            Panel(
                "What waits to be published?",
                "short",
                [("{{job}} {{instance}}", "lane_waiting")],
                limit=5000,
            ),
            Panel(
                "How large are batches?",
                "short",
                [
                    (
                        "{{job}} {{exchange}}",
                        "sum by (job, exchange) (rate(messages_published_total[$__rate_interval])) / "
                        "sum by (job, exchange) (rate(batches_published_total[$__rate_interval]))",
                    )
                ],
                text="Messages in one AMQP message: they grow with the load.",
            ),
            Panel(
                "How much memory does it use?",
                "percentunit",
                [
                    (
                        "{{instance}}",
                        "rabbitmq_process_resident_memory_bytes / rabbitmq_resident_memory_limit_bytes",
                    )
                ],
                text="Of its limit, past which it blocks publishers.",
                limit=1,
            ),
            Panel(
                "Does the link hold?",
                "short",
                [
                    ("{{job}} reconnects", rate("broker_reconnects_total", "job")),
                    ("{{job}} lost {{what}}", rate("deaf_found_total", "job, what")),
                    ("{{job}} probes lost", rate("probes_lost_total", "job")),
                ],
            ),
        ),
    ),
    (
        "Databases",
        (
            Panel(
                "How long is the wait for a connection?",
                "s",
                [("{{job}} p99", p99("database_pool_wait_seconds", "job"))],
                limit=0.01,
            ),
            Panel(
                "How many connections are in use?",
                "percentunit",
                [("{{job}} {{instance}}", "database_pool_in_use")],
                limit=0.95,
            ),
            Panel(
                "Can services write?",
                "short",
                [("{{job}} {{instance}}", "database_writable")],
            ),
        ),
    ),
    (
        "Limits",
        (
            Panel(
                "Which limits are hit?",
                "cps",
                [
                    ("connects over {{by}}", rate("connects_refused_total", "by")),
                    ("handshakes over {{limit}}", rate("handshakes_aborted_total", "limit")),
                    ("frames over {{limit}}", rate("rate_limited_total", "limit")),
                    ("in flight over {{limit}}", rate("inflight_refused_total", "limit")),
                ],
            ),
            Panel(
                "Who does not read?",
                "bytes",
                [("{{instance}} waits to be written", "send_backlog_bytes")],
                limit=33554432,
            ),
            Panel(
                "How many were too slow?",
                "cps",
                [("over {{limit}}", rate("slow_consumers_total", "limit"))],
            ),
        ),
    ),
)


def panels() -> Iterator[dict[str, Any]]:
    """The panels of the dashboard, from top to bottom, with the alerts that fire first."""
    numbers = iter(range(1, 1000))
    top = 0
    yield {
        "id": next(numbers),
        "type": "table",
        "title": "Alerts",
        "description": "Each has an entry in docs/operations/runbook.md.",
        "datasource": _SOURCE,
        "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 5},
        "targets": [
            {
                "refId": "A",
                "datasource": _SOURCE,
                "expr": 'ALERTS{alertstate="firing"}',
                "format": "table",
                "instant": True,
            }
        ],
        "transformations": [
            {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True, "__name__": True}}}
        ],
    }
    top += 5
    for row, shown in ROWS:
        yield {
            "id": next(numbers),
            "type": "row",
            "title": row,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 1},
        }
        top += 1
        for place, panel in enumerate(shown):
            line, column = divmod(place, 3)
            yield {
                "id": next(numbers),
                **_graph(panel),
                "gridPos": {"x": column * 8, "y": top + line * _HEIGHT, "w": 8, "h": _HEIGHT},
            }
        top += -(-len(shown) // 3) * _HEIGHT


def _graph(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {
                    "drawStyle": "line",
                    "fillOpacity": 8,
                    "showPoints": "never",
                    "thresholdsStyle": {"mode": "off" if panel.limit is None else "dashed"},
                },
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": name,
            }
            for number, (name, expression) in enumerate(panel.series)
        ],
    }


def render() -> str:
    """The dashboard as Grafana imports it."""
    dashboard = {
        "uid": "towpath",
        "title": "Towpath",
        "tags": ["towpath"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "15s",
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                }
            ]
        },
        "panels": list(panels()),
    }
    return json.dumps(dashboard, indent=2) + "\n"


def main() -> None:
    """Write the dashboard."""
    DASHBOARD.write_text(render())


if __name__ == "__main__":
    main()

"""Writes deploy/grafana/towpath.json, the dashboard: ``make docs``. A test fails when they differ.

A table of rows and panels. Each panel has one question as its title, and shows one unit. Rows follow a request: the
users, the gateways and services, RabbitMQ, the databases, and the limits.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

DASHBOARD: Final = Path(__file__).parent.parent / "deploy/grafana/towpath.json"

_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
#: Grid units: a dashboard is 24 wide.
_WIDTH: Final = 24
_HEIGHT: Final = 7
_COLUMNS: Final = 3
#: The alerts that fire, as a table.
_ALERTS: Final = {
    "type": "table",
    "title": "Alerts",
    "description": "Each has an entry in docs/operations/runbook.md.",
    "datasource": _SOURCE,
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

#: The name of a series, with labels in double braces, and its expression.
Series = tuple[str, str]


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        title: The question that it answers.
        unit: Of Grafana: https://grafana.com/docs/grafana/latest/panels-visualizations/configure-standard-options/
        series: Those that it shows, in this order.
        text: Explains a panel whose meaning is not plain.
        limit: A line above which something is wrong, drawn in red.
    """

    title: str
    unit: str
    series: Sequence[Series]
    text: str = ""
    limit: float | None = None


def quantile(share: float, metric: str, by: str) -> str:
    """A quantile of a histogram, for each value of the label ``by``."""
    return f"histogram_quantile({share:g}, sum by ({by}, le) (rate({metric}_bucket[$__rate_interval])))"


def p99(metric: str, by: str) -> Series:
    """The 99th percentile of a histogram, for each value of the label ``by``."""
    return f"{{{{{by}}}}} p99", quantile(0.99, metric, by)


def rate(metric: str, by: str = "") -> str:
    """The rate of a counter, per second: of all together, or for each value of the labels ``by``."""
    return f"sum{by and f' by ({by}) '}(rate({metric}[$__rate_interval]))"


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
                    ("requests", rate(f"messages_received_total{{{GATEWAY}}}")),
                    ("frames to clients", rate("messages_delivered_total")),
                ],
            ),
            Panel(
                "How long does an answer take?",
                "s",
                [
                    p99("request_delay_seconds", "domain"),
                    ("{{domain}} p50", quantile(0.5, "request_delay_seconds", "domain")),
                ],
                text="From the frame read to the answer handed to the socket.",
                limit=1,
            ),
            Panel(
                "How long does a push take?",
                "s",
                [p99("push_delay_seconds", "domain")],
                text="From the service's timestamp to the hand-over to the socket: clocks have to agree.",
            ),
            Panel(
                "What is refused?",
                "reqps",
                [
                    ("connects", rate("connections_refused_total")),
                    ("requests, by gateways", rate(f"requests_refused_total{{{GATEWAY}}}")),
                    ("requests, by services", rate(f"requests_refused_total{{{SERVICES}}}")),
                ],
                text="Each reason is a label. Those that are limits are in the last row.",
            ),
            Panel(
                "How many come, and with which code do they go?",
                "cps",
                [
                    ("connects", rate("connections_opened_total")),
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
                [p99("unit_of_work_seconds", "job")],
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
                [p99("publish_confirm_seconds", "job")],
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
                        f"{rate('messages_published_total', 'job, exchange')} / "
                        f"{rate('batches_published_total', 'job, exchange')}",
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
                [("{{job}} p90", quantile(0.9, "database_pool_wait_seconds", "job"))],
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
    numbers = count(1)
    yield {"id": next(numbers), **_ALERTS, "gridPos": _place(0, 0, _WIDTH, 5)}
    top = 5
    for title, row in ROWS:
        heading = {"type": "row", "title": title, "collapsed": False, "panels": []}
        yield {"id": next(numbers), **heading, "gridPos": _place(0, top, _WIDTH, 1)}
        top += 1
        for line in range(0, len(row), _COLUMNS):
            for column, panel in enumerate(row[line : line + _COLUMNS]):
                width = _WIDTH // _COLUMNS
                place = _place(column * width, top, width, _HEIGHT)
                yield {"id": next(numbers), **_graph(panel), "gridPos": place}
            top += _HEIGHT


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


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

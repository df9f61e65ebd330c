"""Shapes of the custom resources that we use: the fields that we set, of those that their definitions have.

After the API references of the Prometheus operator (monitoring.coreos.com/v1) and of the Gateway API
(gateway.networking.k8s.io/v1); what is not here is not allowed, so a misspelt field is found.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string", "minLength": 1}
DURATION: Final[Schema] = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d|w|y))+$"}
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}


def fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": sorted(required),
        "additionalProperties": False,
    }


def one_or_more(schema: Schema) -> Schema:
    return {"type": "array", "items": schema, "minItems": 1}


def resource(api_version: str, kind: str, spec: Schema) -> Schema:
    metadata = fields({"name": TEXT, "namespace": TEXT, "labels": TEXTS}, {"annotations": TEXTS})
    return fields(
        {"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec}
    )


SELECTOR = fields(
    {},
    {
        "matchLabels": TEXTS,
        "matchExpressions": one_or_more(
            fields(
                {"key": TEXT, "operator": {"enum": ["In", "NotIn", "Exists"]}}, {"values": one_or_more(TEXT)}
            )
        ),
    },
)
POD_MONITOR = resource(
    "monitoring.coreos.com/v1",
    "PodMonitor",
    fields(
        {
            "selector": SELECTOR,
            "podMetricsEndpoints": one_or_more(
                fields(
                    {"port": TEXT},
                    {
                        "path": TEXT,
                        "interval": DURATION,
                        "scrapeTimeout": DURATION,
                        "relabelings": one_or_more(
                            fields({"sourceLabels": one_or_more(TEXT), "targetLabel": TEXT})
                        ),
                    },
                )
            ),
        },
        {"jobLabel": TEXT},
    ),
)
RECORDING = fields({"record": TEXT, "expr": TEXT}, {"labels": TEXTS})
ALERTING = fields(
    {"alert": TEXT, "expr": TEXT},
    {"for": DURATION, "keep_firing_for": DURATION, "labels": TEXTS, "annotations": TEXTS},
)
PROMETHEUS_RULE = resource(
    "monitoring.coreos.com/v1",
    "PrometheusRule",
    fields(
        {
            "groups": one_or_more(
                fields(
                    {"name": TEXT, "rules": one_or_more({"oneOf": [RECORDING, ALERTING]})},
                    {"interval": DURATION},
                )
            )
        }
    ),
)
GATEWAY = resource(
    "gateway.networking.k8s.io/v1",
    "Gateway",
    fields(
        {
            "gatewayClassName": TEXT,
            "listeners": one_or_more(
                fields(
                    {"name": TEXT, "port": {"type": "integer"}, "protocol": {"enum": ["HTTP", "HTTPS"]}},
                    {
                        "hostname": TEXT,
                        "allowedRoutes": fields(
                            {
                                "namespaces": fields(
                                    {"from": {"enum": ["Same", "Selector"]}}, {"selector": SELECTOR}
                                )
                            }
                        ),
                        "tls": fields(
                            {
                                "mode": {"const": "Terminate"},
                                "certificateRefs": one_or_more(
                                    fields({"name": TEXT}, {"kind": {"const": "Secret"}})
                                ),
                            }
                        ),
                    },
                )
            ),
        }
    ),
)
REDIRECT = fields(
    {
        "type": {"const": "RequestRedirect"},
        "requestRedirect": fields({}, {"scheme": {"enum": ["https"]}, "statusCode": {"enum": [301, 302]}}),
    }
)
PATH = fields({"type": {"enum": ["Exact", "PathPrefix"]}, "value": TEXT})
# Of the Gateway API (GEP-2257), which knows no days.
TIMEOUT: Final[Schema] = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
HTTP_ROUTE = resource(
    "gateway.networking.k8s.io/v1",
    "HTTPRoute",
    fields(
        {
            "parentRefs": one_or_more(fields({"name": TEXT}, {"sectionName": TEXT, "namespace": TEXT})),
            "hostnames": one_or_more(TEXT),
            "rules": one_or_more(
                fields(
                    {},
                    {
                        "matches": one_or_more(fields({}, {"path": PATH})),
                        "filters": one_or_more(REDIRECT),
                        "backendRefs": one_or_more(fields({"name": TEXT, "port": {"type": "integer"}})),
                        "timeouts": fields({}, {"request": TIMEOUT, "backendRequest": TIMEOUT}),
                    },
                )
            ),
        }
    ),
)
SCHEMAS: Final[dict[str, Schema]] = {
    "PodMonitor": POD_MONITOR,
    "PrometheusRule": PROMETHEUS_RULE,
    "Gateway": GATEWAY,
    "HTTPRoute": HTTP_ROUTE,
}

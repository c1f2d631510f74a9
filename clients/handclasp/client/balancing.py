"""What gRPC itself does for a name that stands for several servers: resolves it, and uses all of them in turn.

Each server's certificate must have that name. Only the health that the servers report themselves says who is in use:
one that is about to stop says so before it stops.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from handclasp.client.addresses import may_be_several
from handclasp.client.repeatable import reads


def balancing_options(address: str) -> list[tuple[str, Any]]:
    """Channel options for a `host:port`; none if it can only be one server."""
    return round_robin() if may_be_several(address) else []


def round_robin() -> list[tuple[str, Any]]:
    """Channel options: servers in turn, as long as they say that they serve; reads that are lost go to the next."""
    return [
        ("grpc.service_config", _service_config()),
        # Whoever runs the servers says what runs where, and not a TXT record of their name.
        ("grpc.service_config_disable_resolution", 1),
    ]


@functools.cache
def _service_config() -> str:
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": ""},
            "methodConfig": [
                {
                    "name": [{"service": service, "method": method} for service, method in reads()],
                    "retryPolicy": {
                        "maxAttempts": 4,
                        "initialBackoff": "0.1s",
                        "maxBackoff": "1s",
                        "backoffMultiplier": 3,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ],
        }
    )

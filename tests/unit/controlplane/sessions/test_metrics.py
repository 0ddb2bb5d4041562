from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from controlplane.sessions.metrics import SessionMetrics
from controlplane.sessions.pki import make_authority, make_serving
from controlplane.sessions.serving import ServingContext

ENDS = "agentcube_snapstart_webhook_certificate_expiry_timestamp_seconds"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def ends(registry: CollectorRegistry) -> float:
    found = registry.get_sample_value(ENDS)
    assert found is not None
    return found


def test_the_end_of_the_certificate_that_is_served_is_told(registry: CollectorRegistry) -> None:
    serving, now = ServingContext(), datetime.now(UTC)
    SessionMetrics(registry).watch_certificate(lambda: serving.not_after)
    assert math.isnan(ends(registry)), "nothing is served yet, which is no certificate that ended"
    one = make_serving(make_authority(now), now, ["localhost"])
    serving.load(one.certificate_pem, one.key_pem)
    assert ends(registry) == one.certificate.not_valid_after_utc.timestamp()


def test_without_webhooks_no_certificate_ends(registry: CollectorRegistry) -> None:
    SessionMetrics(registry)
    assert math.isnan(ends(registry))

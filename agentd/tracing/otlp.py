"""Write spans as OpenTelemetry's protocol has them (OTLP 1, protobuf)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from agentd.tracing.span import Span, Value


def encode(spans: Sequence[Span], resource: Mapping[str, str]) -> bytes:
    """One request. resource: what is said of every service beside its name."""
    scope = InstrumentationScope(name="snapstart")
    groups = [
        trace_pb2.ResourceSpans(
            resource=Resource(attributes=_attributes({"service.name": service, **resource})),
            scope_spans=[
                trace_pb2.ScopeSpans(
                    scope=scope, spans=[_span(one) for one in spans if one.service == service]
                )
            ],
        )
        for service in dict.fromkeys(one.service for one in spans)
    ]
    return ExportTraceServiceRequest(resource_spans=groups).SerializeToString()


def count_rejected(reply: bytes) -> int:
    """How many spans a receiver did not take. Raises: ValueError if the reply is no such thing."""
    return ExportTraceServiceResponse.FromString(reply).partial_success.rejected_spans


def _span(span: Span) -> trace_pb2.Span:
    return trace_pb2.Span(
        trace_id=bytes.fromhex(span.context.trace_id),
        span_id=bytes.fromhex(span.context.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        name=span.name,
        kind=trace_pb2.Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=_attributes(span.attributes),
        status=_status(span.error),
    )


def _status(error: str) -> trace_pb2.Status:
    if not error:
        return trace_pb2.Status()
    return trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR, message=_utf8(error))


def _attributes(values: Mapping[str, Value]) -> Iterable[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items()]


def _value(value: Value) -> AnyValue:
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=_utf8(value))


def _utf8(text: str) -> str:
    """What a guest or a file name may hold, protobuf does not take: lone surrogates."""
    return text.encode("utf-8", "replace").decode()

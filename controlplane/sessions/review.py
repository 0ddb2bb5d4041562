"""Read AdmissionReview requests, write their answers (admission.k8s.io/v1)."""

from __future__ import annotations

import enum

import msgspec

from controlplane.api.meta import Camel, JsonObject
from controlplane.errors import RejectedError

_API_VERSION = "admission.k8s.io/v1"
_KIND = "AdmissionReview"
_MESSAGE_MAX = 1024


class Operation(enum.StrEnum):
    """What is being done to the object."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    CONNECT = "CONNECT"


class GroupKind(Camel, frozen=True):
    """What the object is."""

    group: str = ""
    version: str = ""
    kind: str = ""


class UserInfo(Camel, frozen=True):
    """Who asks."""

    username: str = ""
    groups: tuple[str, ...] | None = None


class AdmissionRequest(Camel, frozen=True):
    """One request; the object as it would be stored now."""

    uid: str
    operation: Operation
    kind: GroupKind = GroupKind()
    namespace: str = ""
    name: str = ""
    user_info: UserInfo = UserInfo()
    object: JsonObject | None = None
    old_object: JsonObject | None = None
    sub_resource: str = ""


class _Review(Camel, frozen=True):
    api_version: str
    kind: str
    request: AdmissionRequest


class PatchStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operation of a JSON patch (RFC 6902)."""

    op: str
    path: str
    value: object = msgspec.UNSET


class _Status(Camel, frozen=True):
    code: int
    message: str


class _Response(Camel, frozen=True, omit_defaults=True):
    uid: str
    allowed: bool
    status: _Status | None = None
    patch_type: str = ""
    patch: bytes = b""  # msgspec writes bytes as base64, which is what the API asks for


class _Answer(Camel, frozen=True):
    api_version: str
    kind: str
    response: _Response


_reviews = msgspec.json.Decoder(_Review)


def read_review(body: bytes) -> AdmissionRequest:
    """Raises: RejectedError if the body is no AdmissionReview of a version known here."""
    try:
        review = _reviews.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RejectedError(f"read an admission review of {len(body)} bytes: {exc}") from exc
    if review.api_version != _API_VERSION or review.kind != _KIND:
        raise RejectedError(f"read an admission review: it is a {review.api_version} {review.kind}")
    return review.request


def allow(uid: str, patch: tuple[PatchStep, ...] = ()) -> bytes:
    """Admit, changed as the patch says."""
    if not patch:
        return _encode(_Response(uid=uid, allowed=True))
    encoded = msgspec.json.encode(patch)
    return _encode(_Response(uid=uid, allowed=True, patch_type="JSONPatch", patch=encoded))


def deny(uid: str, message: str) -> bytes:
    """Refuse; the message reaches the author of the object."""
    status = _Status(code=422, message=message[:_MESSAGE_MAX])
    return _encode(_Response(uid=uid, allowed=False, status=status))


def _encode(response: _Response) -> bytes:
    return msgspec.json.encode(_Answer(api_version=_API_VERSION, kind=_KIND, response=response))

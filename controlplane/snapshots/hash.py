"""Compute the hash that says whether a template and a session are the same thing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from controlplane.api.core import PodTemplate, SandboxSpec, SandboxTemplate
from controlplane.api.meta import JsonObject
from controlplane.api.types import SnapshotClass, SnapshotMode
from controlplane.errors import RejectedError
from controlplane.snapshots.normalise import (
    normalise_claims,
    normalise_metadata,
    normalise_pod_spec,
)

# Counts changes of normalisation, and of what a guest of an older build could not do.
HASH_VERSION: Final = 1

_PUBLIC_RESOLVERS: Final = ("8.8.8.8", "1.1.1.1")


@dataclass(frozen=True)
class HashSource:
    """All that goes into a hash. source_uid: the template's, never the snapshot's."""

    mode: SnapshotMode
    namespace: str
    source_name: str
    source_uid: str
    pod_template: PodTemplate
    volume_claim_templates: tuple[JsonObject, ...] | None
    class_name: str
    provider_name: str
    build_pod_annotations: Mapping[str, str] | None


def fork_source(template: SandboxTemplate, snapshot_class: SnapshotClass) -> HashSource:
    """What the artifacts of a template are built from."""
    spec = template.spec
    return _source(template, snapshot_class, spec.pod_template, spec.volume_claim_templates)


def session_source(
    sandbox: SandboxSpec, template: SandboxTemplate, snapshot_class: SnapshotClass
) -> HashSource:
    """A session's own Sandbox, under the identity of the template it is said to be made from.

    Its hash equals the template's exactly if the session runs what the template says.
    """
    return _source(template, snapshot_class, sandbox.pod_template, sandbox.volume_claim_templates)


def compute_hash(source: HashSource) -> str:
    """`sha256:` with 64 hex digits, over canonical JSON: keys sorted, no white space, UTF-8.

    Secrets, ConfigMaps, volumes, images count by their name: what is behind it is not read.
    Raises: RejectedError for a pod spec that Kubernetes cannot hold. Rules: docs/snapshot-hash.md.
    """
    try:
        encoded = _encode(_canonical(source))
    except RecursionError as exc:
        raise RejectedError("a pod spec is nested too deep to be hashed") from exc
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}"


def with_secure_defaults(template: SandboxTemplate, pod_spec: JsonObject) -> JsonObject:
    """A new pod spec with what agent-sandbox adds to every Sandbox of a pool or a claim.

    No service account token unless asked for; public name servers where agent-sandbox manages the
    network without rules of the author. A Sandbox made by hand lacks both; a build Sandbox has them
    from here, and a session counts as if it had.
    Source: agent-sandbox, extensions/controllers/utils.go, ApplySandboxSecureDefaults.
    """
    spec = dict(pod_spec)
    if spec.get("automountServiceAccountToken") is None:
        spec["automountServiceAccountToken"] = False
    if template.spec.has_default_network and not spec.get("dnsPolicy"):
        spec["dnsPolicy"] = "None"
        spec["dnsConfig"] = {"nameservers": list(_PUBLIC_RESOLVERS)}
    return spec


def _source(
    template: SandboxTemplate,
    snapshot_class: SnapshotClass,
    pod_template: PodTemplate,
    claims: tuple[JsonObject, ...] | None,
) -> HashSource:
    return HashSource(
        mode=SnapshotMode.FORK,
        namespace=template.metadata.namespace,
        source_name=template.metadata.name,
        source_uid=template.metadata.uid,
        pod_template=PodTemplate(
            spec=with_secure_defaults(template, pod_template.spec), metadata=pod_template.metadata
        ),
        volume_claim_templates=claims,
        class_name=snapshot_class.metadata.name,
        provider_name=snapshot_class.spec.provider_name,
        build_pod_annotations=snapshot_class.spec.build_pod_annotations,
    )


def _encode(document: JsonObject) -> bytes:
    """Sessions wait for this: the quick encoder, which knows no half surrogate, comes first.

    Both write the same bytes.
    """
    try:
        return msgspec.json.encode(document, order="sorted")
    except (UnicodeEncodeError, OverflowError):
        text = json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode("utf-8", "surrogatepass")


def _canonical(source: HashSource) -> JsonObject:
    metadata = source.pod_template.metadata
    document: dict[str, Any] = {
        "hashVersion": HASH_VERSION,
        "snapshotMode": source.mode.value,
        "sourceNamespace": source.namespace,
        "sourceName": source.source_name,
        "sourceUID": source.source_uid,
        "podTemplateSpec": normalise_pod_spec(source.pod_template.spec),
        "podTemplateMetadata": _present(
            labels=normalise_metadata(metadata.labels),
            annotations=normalise_metadata(metadata.annotations),
        ),
        "volumeClaimTemplates": normalise_claims(source.volume_claim_templates),
        "snapshotClass": _present(
            name=source.class_name,
            providerName=source.provider_name,
            buildPodAnnotations=dict(source.build_pod_annotations or {}),
        ),
    }
    return _present(**document)


def _present(**members: Any) -> JsonObject:
    """Without what is an empty map or list."""
    return {key: value for key, value in members.items() if value not in ({}, [])}

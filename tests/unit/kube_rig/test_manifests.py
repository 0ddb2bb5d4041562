"""Published manifests become ones that a cluster without nodes can hold."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tests.kube import manifests

URL = "https://127.0.0.1:1/convert"


def crd(strategy: str) -> dict[str, Any]:
    conversion: dict[str, Any] = {"strategy": strategy}
    if strategy == "Webhook":
        service = {"name": "s", "namespace": "n", "path": "/convert"}
        conversion["webhook"] = {
            "conversionReviewVersions": ["v1"],
            "clientConfig": {"service": service},
        }
    return {"kind": "CustomResourceDefinition", "spec": {"conversion": conversion}}


def test_a_webhook_is_called_by_url_instead_of_by_service() -> None:
    before = crd("Webhook")
    after = manifests.with_webhook_at(before, URL, b"pem")
    webhook = after["spec"]["conversion"]["webhook"]
    assert webhook["clientConfig"] == {"url": URL, "caBundle": base64.b64encode(b"pem").decode()}
    assert webhook["conversionReviewVersions"] == ["v1"]
    assert before == crd("Webhook")


def test_a_crd_without_a_webhook_stays_as_it_is() -> None:
    assert manifests.with_webhook_at(crd("None"), URL, b"pem") == crd("None")
    bare = {"kind": "CustomResourceDefinition", "spec": {}}
    assert manifests.with_webhook_at(bare, URL, b"pem") == bare


def test_a_folder_is_sorted_into_crds_and_rights(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(
        "kind: Role\n---\n---\nkind: Deployment\n---\nkind: Kustomization\n"
    )
    (tmp_path / "a.yaml").write_text("kind: CustomResourceDefinition\n")
    (tmp_path / "notes.txt").write_text("kind: Secret\n")
    found = manifests.load(tmp_path)
    assert [item["kind"] for item in manifests.crds_of([tmp_path])] == ["CustomResourceDefinition"]
    assert [item["kind"] for item in manifests.access_of(found)] == ["Role"]


def test_a_crd_is_established_when_its_names_are_accepted_too() -> None:
    rows = [{"type": "Established", "status": "True"}]
    assert not manifests.is_established({"status": {"conditions": rows}})
    rows.append({"type": "NamesAccepted", "status": "True"})
    assert manifests.is_established({"status": {"conditions": rows}})
    assert not manifests.is_established({})
    assert not manifests.is_established({"status": {"conditions": None}})

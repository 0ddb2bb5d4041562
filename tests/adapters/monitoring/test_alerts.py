"""Alerts fire when the failure is there, are silent when it is not, and lead somewhere.

The rules are evaluated by promtool, Prometheus' own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from agentd.engine.session import EndReason
from agentd.errors import ErrorCode
from controlplane.api.types import ArtifactPhase
from controlplane.sessions.decision import StartReason
from tests.adapters.monitoring.known_metrics import all_series, labels_of
from tests.adapters.monitoring.promtool import promtool

# Of which the first may have promtool to download.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "monitoring" / "dashboard.json"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]
}

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """at: when to look. bad: series that make it fire. good: such that do not."""

    at: str
    bad: Series
    good: Series


def counter(name: str, labels: str, step: int, start: int = 0) -> Series:
    """A counter that grows by `step` each minute for three hours."""
    return {f"{name}{{{labels}}}": f"{start}+{step}x180"}


def gauge(name: str, labels: str, value: float) -> Series:
    return {f"{name}{{{labels}}}": f"{value:g}x180"}


def failures(code: str, step: int) -> Series:
    return counter("snapstart_session_failures_total", f'instance="a",code="{code}"', step)


def budget(used: float) -> Series:
    return {
        **gauge("snapstart_reserved_bytes", 'instance="a"', used - 1),
        **gauge("snapstart_template_bytes", 'instance="a"', 1),
        **gauge("snapstart_memory_budget_bytes", 'instance="a"', 10),
    }


def histogram(name: str, labels: str, slow: int, fast: int, bound: str, top: str) -> Series:
    """Each minute so many observations below `bound`, so many between it and `top`."""
    both = slow + fast
    return {
        **counter(f"{name}_bucket", f'{labels},le="{bound}"', fast),
        **counter(f"{name}_bucket", f'{labels},le="{top}"', both),
        **counter(f"{name}_bucket", f'{labels},le="+Inf"', both),
    }


def fork_times(slow: int, fast: int) -> Series:
    labels = 'instance="a",mode="fork",stage="total"'
    return histogram("snapstart_start_stage_seconds", labels, slow, fast, "0.5", "30")


def lookups(slow: int, fast: int) -> Series:
    name = "agentcube_snapshot_restore_intent_duration_seconds"
    return histogram(name, 'instance="a"', slow, fast, "0.001", "1")


def pods(cold: int, fork: int) -> Series:
    name = "snapstart_pod_starts_total"
    return {
        **counter(name, 'instance="a",start="cold",reason="artifact_missing"', cold),
        **counter(name, 'instance="a",start="cold",reason=""', 50),
        **counter(name, 'instance="a",start="snapshot",reason=""', fork),
    }


def restores(cold: int, restored: int) -> Series:
    name = "agentcube_snapstart_restore_total"
    return {
        **counter(name, 'node="a",result="cold_start",reason="x"', cold),
        **counter(name, 'node="a",result="restore",reason=""', restored),
    }


def stalls(stalled: int) -> Series:
    return {
        **counter("snapstart_pager_stalls_total", 'instance="a"', stalled),
        **counter("snapstart_pager_faults_total", 'instance="a"', 1000),
    }


def decisions(cold: int, restored: int) -> Series:
    name = "agentcube_snapshot_restore_intent_total"
    fallen = "agentcube_snapstart_fallback_total"
    return {
        **counter(fallen, 'instance="a",reason="store_error"', cold),
        **counter(name, 'instance="a",result="cold_start",reason="store_error"', cold),
        **counter(name, 'instance="a",result="cold_start",reason="no_snapshot"', 1000),
        **counter(name, 'instance="a",result="restore_intent",reason="restored_intent"', restored),
    }


def coverage(ready: int, target: int) -> Series:
    """Of the leader; the other replica has no series of snapshots."""
    labels = 'instance="leader",namespace="team",snapshot="python"'
    return {
        **gauge("agentcube_sandbox_snapshot_target_node_count", labels, target),
        **gauge("agentcube_sandbox_snapshot_ready_node_count", labels, ready),
    }


def leaders(*values: int) -> Series:
    return {
        f'agentcube_snapshot_controller_leader{{instance="{n}"}}': f"{value}x180"
        for n, value in enumerate(values)
    }


def grown(name: str, labels: str, *, bad: int, good: int = 0) -> tuple[Series, Series]:
    return counter(name, labels, bad), counter(name, labels, good)


def up(job: str, value: int) -> Series:
    return gauge("up", f'job="{job}",instance="a"', value)


def certificate(days: float) -> Series:
    """One that ends so long after a test's world began."""
    name = "agentcube_snapstart_webhook_certificate_expiry_timestamp_seconds"
    return gauge(name, 'instance="a"', days * 86400)


def unreached(webhook: str) -> Series:
    return counter("apiserver_admission_webhook_fail_open_count", f'name="{webhook}"', 1)


HOURS = "2h"
OURS = "sandboxes.snapstart.agentcube.volcano.sh"
CASES: dict[str, Case] = {
    "SnapStartAgentDown": Case("6m", up("snapstart-agentd", 0), up("snapstart-agentd", 1)),
    "SnapStartAgentNotReady": Case(
        "6m",
        gauge("snapstart_part_ready", 'instance="a",part="journal"', 0),
        gauge("snapstart_part_ready", 'instance="a",part="journal"', 1),
    ),
    "SnapStartControlPlaneNotReady": Case(
        "11m",
        gauge("agentcube_snapstart_part_ready", 'instance="a",part="store"', 0),
        gauge("agentcube_snapstart_part_ready", 'instance="a",part="store"', 1),
    ),
    "SnapStartNodeFull": Case("16m", failures("node_full", 1), failures("template_not_found", 1)),
    "SnapStartNodeNearlyFull": Case("16m", budget(9.5), budget(8.5)),
    "SnapStartDiskFull": Case("11m", failures("disk_full", 1), failures("cancelled", 1)),
    "SnapStartSessionsFail": Case("16m", failures("vmm_failed", 1), failures("cancelled", 1)),
    "SnapStartMachinesDie": Case(
        "20m",
        *grown("snapstart_sessions_ended_total", 'instance="a",reason="vm_died"', bad=1),
    ),
    "SnapStartTemplateBuildsFail": Case(
        HOURS, *grown("snapstart_templates_built_total", 'instance="a",outcome="failed"', bad=1)
    ),
    "SnapStartTemplatesUnusable": Case(
        "31m",
        gauge("snapstart_failed_templates", 'instance="a"', 1),
        gauge("snapstart_failed_templates", 'instance="a"', 0),
    ),
    "SnapStartForksSlow": Case("30m", fork_times(10, 90), fork_times(1, 99)),
    "SnapStartRestoresFallBack": Case("40m", pods(50, 50), pods(1, 99)),
    "SnapStartSandboxerStartsCold": Case("40m", restores(50, 50), restores(1, 99)),
    "SnapStartPodsStuck": Case(
        "20m", *grown("snapstart_stuck_pods_total", 'instance="a",sign="gate_closed"', bad=1)
    ),
    "SnapStartPageServerGone": Case(
        "30m",
        {'snapstart_pager_up{instance="a"}': "1x20 0x20"},
        gauge("snapstart_pager_up", 'instance="a"', 0),
    ),
    "SnapStartPageServerStopsMachines": Case(
        "20m", *grown("snapstart_pager_machines_stopped_total", 'instance="a"', bad=1)
    ),
    "SnapStartPagesStall": Case("40m", stalls(50), stalls(1)),
    "SnapStartWorkingSetsFail": Case(
        HOURS, *grown("snapstart_working_sets_total", 'instance="a",outcome="failed"', bad=1)
    ),
    "SnapStartControlPlaneDown": Case(
        "6m", up("snapstart-controlplane", 0), up("snapstart-controlplane", 1)
    ),
    "SnapStartNoLeader": Case("6m", leaders(0, 0), leaders(0, 1)),
    "SnapStartTwoLeaders": Case("6m", leaders(1, 1), leaders(1, 0)),
    "SnapStartSnapshotsOff": Case(
        "11m",
        gauge("agentcube_snapshot_enabled", 'instance="a"', 0),
        gauge("agentcube_snapshot_enabled", 'instance="a"', 1),
    ),
    "SnapStartStoreFails": Case(
        "11m", *grown("agentcube_snapshot_store_errors_total", 'instance="a",op="get"', bad=1)
    ),
    "SnapStartFallback": Case("40m", decisions(50, 50), decisions(1, 99)),
    "SnapStartRecordDamaged": Case(
        "20m",
        *grown("agentcube_snapstart_fallback_total", 'reason="manifest_corrupt"', bad=1),
    ),
    "SnapStartBuildsFail": Case(
        HOURS, *grown("agentcube_snapshot_build_task_total", 'phase="Failed"', bad=1)
    ),
    "SnapStartSnapshotUnavailable": Case("31m", coverage(0, 3), coverage(3, 3)),
    "SnapStartSnapshotDegraded": Case("61m", coverage(2, 3), coverage(3, 3)),
    "SnapStartRebuildsOften": Case(
        HOURS,
        *grown("agentcube_sandbox_snapshot_rebuild_total", 'reason="SourceChanged"', bad=1),
    ),
    "SnapStartArtifactsStay": Case(
        "6m",
        gauge("agentcube_snapshot_oldest_retired_artifact_age_seconds", "", 9000),
        gauge("agentcube_snapshot_oldest_retired_artifact_age_seconds", "", 900),
    ),
    "SnapStartDeletionsFail": Case(
        HOURS, *grown("agentcube_snapshot_physical_delete_total", 'result="failed"', bad=1)
    ),
    "SnapStartLookupsSlow": Case("30m", lookups(5, 95), lookups(0, 100)),
    "SnapStartAdmissionErrors": Case(
        "20m", *grown("agentcube_snapstart_admission_errors_total", 'reason="defect"', bad=1)
    ),
    "SnapStartWebhookCertificateEnds": Case("2h", certificate(days=6), certificate(days=9)),
    "SnapStartWebhookNotReached": Case("20m", unreached(OURS), unreached("pods.example.org")),
}


def test_the_rules_are_valid() -> None:
    done = promtool("check", "rules", str(ALERTS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


def test_every_alert_is_tried() -> None:
    assert set(CASES) == set(RULES)


def firing(directory: Path, series_of: dict[str, Series]) -> set[str]:
    """Which alerts fire, each asked for in a world of its own. promtool is told that none does."""
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in series.items()],
            "alert_rule_test": [{"eval_time": CASES[name].at, "alertname": name, "exp_alerts": []}],
        }
        for name, series in series_of.items()
    ]
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}
    file = directory / "rules_test.yaml"
    file.write_text(yaml.safe_dump(document))
    done = promtool("test", "rules", str(file))
    said = done.stdout + done.stderr
    found = set(re.findall(r'got:\[\s*0:\s*Labels:{alertname="(\w+)"', said))
    assert len(re.findall("alertname: ", said)) == len(found), said
    assert (done.returncode == 0) == (not found), said
    return found


def test_every_alert_fires_for_its_failure(tmp_path: Path) -> None:
    assert set(CASES) - firing(tmp_path, {name: case.bad for name, case in CASES.items()}) == set()


def test_no_alert_fires_without_its_failure(tmp_path: Path) -> None:
    assert firing(tmp_path, {name: case.good for name, case in CASES.items()}) == set()


def test_a_quiet_installation_is_quiet(tmp_path: Path) -> None:
    quiet: Series = {**up("snapstart-agentd", 1), **up("snapstart-controlplane", 1)}
    quiet |= leaders(1, 0) | coverage(3, 3) | budget(5) | decisions(0, 100) | pods(0, 100)
    assert firing(tmp_path, dict.fromkeys(CASES, quiet)) == set()


# -- what alerts and the dashboard name -----------------------------------------------------------


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard()["panels"]
    return found


def expressions() -> Iterator[str]:
    """Of all panels, with what Grafana fills in."""
    for panel in panels():
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "5m")
            yield text.replace("$instance", ".*")


def named(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:snapstart|agentcube)_\w+", expression))


def test_every_metric_that_an_alert_names_exists() -> None:
    used = {name for rule in RULES.values() for name in named(rule["expr"])}
    assert used - all_series() == set()
    assert len(used) > 20


def test_every_metric_that_the_dashboard_names_exists() -> None:
    used = {name for expression in expressions() for name in named(expression)}
    assert used - all_series() == set()
    assert len(used) > 20


# Given by Prometheus to what it scrapes, or of a histogram's buckets.
_EVERYWHERE = {"instance", "job", "le"}
# What labels say, where a list of it exists.
_WORDS: dict[tuple[str, str], set[str]] = {
    ("snapstart_session_failures_total", "code"): {*ErrorCode, "cancelled"},
    ("snapstart_sessions_ended_total", "reason"): {*EndReason},
    ("agentcube_snapstart_fallback_total", "reason"): {*StartReason},
    ("agentcube_snapshot_restore_intent_total", "reason"): {*StartReason},
    ("agentcube_snapshot_build_task_total", "phase"): {*ArtifactPhase},
}


def family_of(series: str) -> str:
    """Of a histogram's part; any other series is its own."""
    family = re.sub(r"_(bucket|count|sum)$", "", series)
    return series if series == family or f"{family}_bucket" not in all_series() else family


def selected(expression: str) -> Iterator[tuple[str, str, str]]:
    """Each series of ours with a label that it is chosen by, and the value or pattern."""
    for series, inside in re.findall(r"\b((?:snapstart|agentcube)_\w+)\{([^}]*)\}", expression):
        for label, value in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', inside):
            yield series, label, value


def everything_asked() -> list[str]:
    return [*(rule["expr"] for rule in RULES.values()), *expressions()]


def test_every_label_that_a_series_is_chosen_by_is_one_of_its_own() -> None:
    asked = {(series, label) for text in everything_asked() for series, label, _ in selected(text)}
    known = {series: {*labels_of(family_of(series)), *_EVERYWHERE} for series, _ in asked}
    assert {(series, label) for series, label in asked if label not in known[series]} == set()
    assert len(asked) > 10


def test_every_label_that_series_are_summed_by_is_one_of_theirs() -> None:
    for text in everything_asked():
        own = {label for series in named(text) for label in labels_of(family_of(series))}
        summed = {
            word for inside in re.findall(r"\bby \(([^)]*)\)", text) for word in inside.split(", ")
        }
        of_others = {"name"} if not named(text) else set()
        assert summed <= own | _EVERYWHERE | of_others, text


def test_every_word_that_a_label_is_compared_with_can_be_said() -> None:
    asked = [one for text in everything_asked() for one in selected(text)]
    compared = [
        (_WORDS[series, label], value)
        for series, label, value in asked
        if (series, label) in _WORDS
    ]
    assert [value for words, value in compared if not set(value.split("|")) <= words] == []
    assert len(compared) > 5


def test_the_dashboard_s_queries_are_promql(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(expressions())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_s_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_dashboard_takes_the_data_source_of_whoever_imports_it() -> None:
    sources = {json.dumps(panel["datasource"]) for panel in panels() if "datasource" in panel}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert {one["name"] for one in dashboard()["templating"]["list"]} >= {"datasource", "instance"}


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    titles = set(re.findall(r"^#### (\w+)$", page, re.M))
    assert titles == set(RULES)
    for name, rule in RULES.items():
        assert rule["annotations"]["runbook"] == f"docs/troubleshooting.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")


# -- what alerts are for --------------------------------------------------------------------------


def failures_told(title: str) -> dict[str, str]:
    """Each failure of a table of the operator page, with what its last column says of alerts."""
    page = (ROOT / "docs" / "operator.md").read_text()
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## )", page, re.M | re.S)
    rows = [line.strip("|").split(" | ") for line in found.splitlines() if line.startswith("| ")]
    assert rows[0][-1].strip() == "alert"
    return {row[0].strip(): row[-1].strip() for row in rows[1:]}


@pytest.mark.parametrize(
    "title", ["What happens when a part dies", "When a part of the cluster dies"]
)
def test_every_failure_has_its_alert_or_says_why_it_needs_none(title: str) -> None:
    told = failures_told(title)
    assert len(told) > 10
    named = {what: re.findall(r"\[(SnapStart\w+)\]", cell) for what, cell in told.items()}
    assert {name for names in named.values() for name in names} <= set(RULES)
    silent = {what for what, names in named.items() if not names}
    assert {what for what in silent if not re.match(r"none: \w+ .+", told[what])} == set()


def test_the_webhooks_that_an_alert_is_about_are_those_of_the_manifests() -> None:
    manifest = (ROOT / "deploy" / "kubernetes" / "webhooks.yaml").read_text()
    ours = re.findall(r"^  - name: (\S+)$", manifest, re.M)
    (pattern,) = re.findall(r'name=~"([^"]+)"', RULES["SnapStartWebhookNotReached"]["expr"])
    assert len(ours) == 2
    assert [name for name in ours if not re.fullmatch(pattern, name)] == []

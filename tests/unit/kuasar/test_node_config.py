"""A sandboxer's settings decide what forks are worth."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import ConfigError, ErrorCode
from agentd.kuasar.client import Form
from agentd.kuasar.node_config import (
    Finding,
    Level,
    NodeConfig,
    find_warnings,
    judge_node_config,
    parse_node_config,
    read_node_config,
)

# As shipped, but for the lease mode and the resolver.
GOOD = """
[sandbox]
log_level = "info"
[sandbox.snapshot]
enable_environment_restore = true
enable_warmfork_restore = true
max_concurrent_restores = 4
fallback_to_fresh_boot = true
default_memory_restore_mode = "ondemand"
[[sandbox.snapshot.annotation_resolvers]]
snapshot_key_annotation = "agentcube.volcano.sh/snapshot-key"
[template_pool]
store_dir = "/var/lib/kuasar/pool"
gc_watermark = 50
[template_pool.environment]
min_per_key = 1
[template_pool.warmfork]
max_per_key = 5
lease_mode = "shared"
[hypervisor]
path = "/usr/local/bin/cloud-hypervisor"
container_storage_backend = "virtio-blk"
"""


def judged(text: str, form: Form | None = Form.GRPC) -> dict[str, Finding]:
    found = judge_node_config(parse_node_config(text.encode(), "config.toml"), form)
    assert len({one.key for one in found}) == len(found)
    return {one.key: one for one in found}


def without(line: str) -> str:
    assert f"{line}\n" in GOOD
    return GOOD.replace(f"{line}\n", "")


def instead(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


NO_RESOLVER = instead(
    '[[sandbox.snapshot.annotation_resolvers]]\n'
    'snapshot_key_annotation = "agentcube.volcano.sh/snapshot-key"\n', ""
)  # fmt: skip
NO_POOL = GOOD[: GOOD.index("[template_pool]")] + GOOD[GOOD.index("[hypervisor]") :]


def test_a_good_node_has_one_thing_to_be_known() -> None:
    found = judged(GOOD)
    assert [one.key for one in found.values() if one.level is not Level.OK] == [
        "fallback_to_fresh_boot"
    ]


@pytest.mark.parametrize(
    ("text", "key", "level", "hint"),
    [
        (instead('"shared"', '"exclusive"'), "lease_mode", Level.WARN, '"shared"'),
        (without('lease_mode = "shared"'), "lease_mode", Level.OK, ""),
        (instead('"shared"', '"Exclusiv"'), "lease_mode", Level.FAIL, '"shared"'),
        (
            instead("enable_warmfork_restore = true", "enable_warmfork_restore = false"),
            "enable_warmfork_restore", Level.FAIL, "= true",
        ),
        (
            without("enable_warmfork_restore = true"),
            "enable_warmfork_restore", Level.FAIL, "= true",
        ),
        (
            instead('"virtio-blk"', '"virtiofs"'),
            "container_storage_backend", Level.FAIL, '"virtio-blk"',
        ),
        (
            without('container_storage_backend = "virtio-blk"'),
            "container_storage_backend", Level.FAIL, '"virtio-blk"',
        ),
        (
            without("fallback_to_fresh_boot = true"),
            "fallback_to_fresh_boot", Level.WARN, "evidence",
        ),
        (
            instead("fallback_to_fresh_boot = true", "fallback_to_fresh_boot = false"),
            "fallback_to_fresh_boot", Level.WARN, "= true",
        ),
        (NO_POOL, "template_pool", Level.FAIL, "store_dir"),
        (
            without('store_dir = "/var/lib/kuasar/pool"'),
            "template_pool", Level.FAIL, "store_dir",
        ),
        (instead("max_per_key = 5", "max_per_key = 1"), "max_per_key", Level.WARN, "2 or more"),
        (instead("max_per_key = 5", "max_per_key = 2"), "max_per_key", Level.OK, ""),
        (without("max_per_key = 5"), "max_per_key", Level.OK, ""),
        (NO_RESOLVER, "annotation_resolvers", Level.WARN, "snapshot_key_annotation ="),
        (
            instead("volcano.sh/snapshot-key", "volcano.sh/other"),
            "annotation_resolvers", Level.WARN, "snapshot_key_annotation =",
        ),
        (
            without('default_memory_restore_mode = "ondemand"'),
            "default_memory_restore_mode", Level.WARN, "ondemand",
        ),
        (
            instead('"ondemand"', '"ExternalUffd"'),
            "default_memory_restore_mode", Level.WARN, "started before",
        ),
        (
            instead('"ondemand"', '"filebackend"'),
            "default_memory_restore_mode", Level.WARN, "if it is not",
        ),
        (instead('"ondemand"', '"OnDemand"'), "default_memory_restore_mode", Level.OK, ""),
        (
            instead('"ondemand"', '"lazy"'),
            "default_memory_restore_mode", Level.FAIL, '"ondemand"',
        ),
    ],
    ids=[
        "lease-exclusive", "lease-absent", "lease-unknown", "restore-off", "restore-absent",
        "virtiofs", "storage-absent", "fallback-absent", "fallback-off", "no-pool", "no-store",
        "one-per-key", "two-per-key", "per-key-absent", "no-resolver", "another-resolver",
        "memory-absent", "memory-external", "memory-file", "memory-other-case", "memory-unknown",
    ],
)  # fmt: skip
def test_each_setting_has_its_verdict(text: str, key: str, level: Level, hint: str) -> None:
    found = judged(text)[key]
    assert found.level is level
    assert hint in found.hint
    assert found.detail


def test_an_empty_file_is_judged_by_the_sandboxers_own_defaults() -> None:
    failed = {key for key, one in judged("").items() if one.level is Level.FAIL}
    assert failed == {"enable_warmfork_restore", "container_storage_backend", "template_pool"}


def test_a_resolver_is_a_matter_of_the_grpc_form_alone() -> None:
    key = "annotation_resolvers"
    assert judged(NO_RESOLVER, Form.JSON)[key].level is Level.OK
    assert "will not start" in judged(GOOD, Form.JSON)[key].detail
    assert "if the sandboxer is of the gRPC form" in judged(NO_RESOLVER, None)[key].hint


def test_what_has_to_be_changed_comes_with_how() -> None:
    for text in (GOOD, NO_POOL, NO_RESOLVER, ""):
        for form in (None, *Form):
            for one in judged(text, form).values():
                assert bool(one.hint) == (one.level is not Level.OK)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[sandbox", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"a = " + b"[" * 100_000, "not TOML"),
        (b"sandbox = 3", "$.sandbox"),
        (b"sandbox.snapshot = []", "$.sandbox.snapshot"),
        (b"[sandbox.snapshot]\nenable_warmfork_restore = 'yes'", "enable_warmfork_restore"),
        (b"[sandbox.snapshot]\nannotation_resolvers = [1]", "annotation_resolvers"),
        (b"[template_pool.warmfork]\nlease_mode = 1", "lease_mode"),
        (b"[template_pool]\ngc_watermark = 'many'", "gc_watermark"),
        (b"template_pool = 2026-01-01", "template_pool"),
    ],
    ids=[
        "cut", "binary", "nested", "table-number", "table-list", "bool-text", "resolver-number",
        "lease-number", "watermark-text", "table-date",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(raw: bytes, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_node_config(raw, "/etc/node.toml")
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert "/etc/node.toml" in caught.value.message
    assert words in caught.value.message
    assert caught.value.hint


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(raw: bytes) -> None:
    try:
        config = parse_node_config(raw, "x")
    except ConfigError:
        return
    assert judge_node_config(config, None)


def test_a_file_is_read_or_said_why_not(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    (missing,) = find_warnings(file, Form.JSON)
    assert missing.level is Level.WARN
    assert str(file) in missing.detail
    assert "kuasar.config_file" in missing.hint
    (folder,) = find_warnings(tmp_path, Form.JSON)
    assert "directory" in folder.detail
    file.write_text("]")
    (broken,) = find_warnings(file, Form.JSON)
    assert "not TOML" in broken.detail
    file.write_text(instead('"shared"', '"exclusive"'))
    assert {one.key for one in find_warnings(file, Form.GRPC)} == {
        "lease_mode",
        "fallback_to_fresh_boot",
    }
    assert isinstance(read_node_config(file), NodeConfig)

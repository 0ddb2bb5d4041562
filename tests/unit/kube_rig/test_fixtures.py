"""A cluster that cannot be had is skipped loudly, a failure where it has to be had."""

from __future__ import annotations

import pytest

from tests.kube import fixtures


def test_a_missing_cluster_is_skipped_with_one_line_that_names_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception) as caught:
        fixtures.unavailable("NO CLUSTER", "go build", "ended with 1\n  one\n  two\n")
    assert caught.value.msg == "NO CLUSTER: step 'go build' failed: ended with 1"


def test_a_missing_cluster_is_a_failure_on_ci_with_all_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)go build.*two"):
        fixtures.unavailable("NO CLUSTER", "go build", "ended with 1\n  one\n  two\n")

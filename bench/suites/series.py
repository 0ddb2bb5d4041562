"""Take the samples of a test: through pytest-benchmark, with everything that a bundle needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pytest_benchmark.fixture import BenchmarkFixture

from agentd.errors import SnapStartError
from bench.steal import read_steal_ms
from bench.suites.budget import Allowance

T = TypeVar("T")
# What a machine or a daemon does to a round; anything else is a defect of the benchmark.
FAILURES = (SnapStartError, OSError, RuntimeError, TimeoutError)


class _EnoughError(Exception):
    """No further round is due."""


class Series:
    """What one test measures. Everything it learns is in the benchmark's `extra_info`.

    The benchmark's own series is that of `rounds` or `once`; `also` adds samples of others.
    """

    def __init__(self, benchmark: BenchmarkFixture, allowance: Allowance) -> None:
        self._benchmark = benchmark
        self._run: Callable[..., Any] = benchmark.pedantic  # which has no types
        self._allowance = allowance
        self._info: dict[str, Any] = benchmark.extra_info
        self._info.update(wanted=allowance.wanted, also=[], failures={}, at_s=[], steal_ms=[])
        self.number = -1

    @property
    def wanted(self) -> int:
        """How many rounds this form has."""
        return self._allowance.wanted

    def describe(
        self, name: str, *, machine: str, cache: str = "none", unit: str = "ms", **dims: str
    ) -> None:
        """Name the series. machine: "qemu", "kvm", "stand-in", "none"; cache: "warm" or "cold"."""
        self._info.update(series=name, machine_kind=machine, cache=cache, unit=unit, dims=dims)

    def rounds(
        self,
        act: Callable[[], T],
        *,
        before: Callable[[], object] | None = None,
        after: Callable[[T], object] | None = None,
    ) -> None:
        """Time `act` for as many rounds as the budget has; neither `before` nor `after` is timed.

        A round whose `act` fails is a failure with its words, and the series goes on.
        """
        made: list[T] = []

        def begin() -> None:
            if not self._allowance.take():
                raise _EnoughError
            self.number += 1
            if before is not None:
                before()
            self._info["at_s"].append(time.time())
            self._info["steal_ms"].append(-read_steal_ms())

        def timed() -> None:
            try:
                made.append(act())
            except FAILURES as exc:
                self._info["failures"][str(self.number)] = str(exc)

        def end() -> None:
            self._info["steal_ms"][-1] += read_steal_ms()
            if made:
                result = made.pop()
                if after is not None:
                    after(result)

        try:
            self._run(timed, setup=begin, teardown=end, rounds=self.wanted + 1)
        except _EnoughError:
            # The rounds that there are count; pytest-benchmark takes any exception for a failure.
            self._benchmark.has_error = False
        except BaseException:
            self._benchmark.has_error = True
            raise

    def once(self, measure: Callable[[], T]) -> T:
        """Run what takes many samples itself; its own time is no sample."""
        self._info["is_batch"] = True
        self._info["at_s"].append(time.time())
        self.number = 0
        try:
            result: T = self._run(measure, rounds=1)
        except BaseException:
            # pytest-benchmark cannot write down one that was interrupted before its first round.
            self._benchmark.has_error = True
            raise
        return result

    def also(self, name: str, value: float, **about: Any) -> None:
        """Add a sample of the present round: about has unit, cache, machine_kind, dims, round."""
        self._info["also"].append(
            {"series": name, "value": value, "round": self.number, **self._about(about)}
        )

    def also_all(self, name: str, values: Sequence[float], **about: Any) -> None:
        """Add a whole series, a sample for each round."""
        for number, value in enumerate(values):
            self.also(name, value, round=number, **about)

    def also_failed(self, name: str, error: str, **about: Any) -> None:
        """Add a failure of the present round."""
        self._info["also"].append(
            {"series": name, "error": error, "round": self.number, **self._about(about)}
        )

    @staticmethod
    def _about(about: Mapping[str, Any]) -> dict[str, Any]:
        known = ("unit", "cache", "machine_kind", "round")
        dims = {key: str(value) for key, value in about.items() if key not in known}
        return {**{key: about[key] for key in known if key in about}, "dims": dims}

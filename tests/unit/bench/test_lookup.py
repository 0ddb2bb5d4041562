from __future__ import annotations

from bench.lookup import hash_alone, make_population


def test_a_session_of_a_population_has_the_hash_of_its_set() -> None:
    population = make_population(30)
    active = population.manifests[population.wanted].active
    assert active is not None
    assert hash_alone(population) == active.snapshot_hash

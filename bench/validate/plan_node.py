"""List the scenarios of one node: what each sets up, what has to come of it."""

from __future__ import annotations

from bench.validate.judge import (
    are_cold,
    are_refused,
    are_restored,
    has_as_many_as,
    has_starts,
    is_above,
    is_fact,
    share_no_identity,
)
from bench.validate.scenario import Scenario, Stage

BAD_NAME, CUT, CHANGED, RUNTIME = "bad name", "truncated", "changed", "runtime fails"
NOTHING_LEFT = is_fact("machines_left", 0)

NODE_SCENARIOS = (
    Scenario(
        "cold baseline",
        Stage.NODE,
        "one node, sessions asked to boot, one after another",
        "each boots, answers, is nobody else",
        (has_as_many_as("cold", "asked"), are_cold("cold"), share_no_identity("cold")),
        ("cold",),
    ),
    Scenario(
        "restore hit",
        Stage.NODE,
        "one node, a template that is ready, forks one after another",
        "each is a fork: its monitor loads the saved machine, no stage boots, its identity is new",
        (has_as_many_as("fork", "asked"), are_restored("fork"), share_no_identity("fork")),
        ("fork",),
    ),
    Scenario(
        "restore fails",
        Stage.NODE,
        "a template that does not exist; one cut short, one with a byte changed on disk; a real "
        "QEMU behind a program that ends when it is to load a machine",
        "each fork is refused with a code and a reason, none boots unasked, no machine is left; "
        "the mended node forks again",
        (
            *(has_starts(group) for group in (BAD_NAME, CUT, CHANGED, RUNTIME)),
            are_refused(BAD_NAME, codes=("template_not_found",)),
            are_refused(CUT, CHANGED, codes=("template_corrupt",)),
            are_refused(RUNTIME, codes=("vmm_failed",)),
            NOTHING_LEFT,
            has_starts("mended"),
            are_restored("mended"),
        ),
        ("mended",),
    ),
    Scenario(
        "N-way fan-out",
        Stage.NODE,
        "N forks of one template at the same moment, all alive together",
        "all N are forks, answer, share no identity; nothing is left",
        (
            has_as_many_as("fork", "asked"),
            are_restored("fork"),
            share_no_identity("fork"),
            is_above("wall_ms", 0.0),
            NOTHING_LEFT,
        ),
        ("fork",),
    ),
    Scenario(
        "mixed templates",
        Stage.NODE,
        "forks of two templates of different memory, in turns and at once",
        "each is a fork of the template that was asked for",
        (
            has_as_many_as("large", "asked_of_each"),
            has_as_many_as("small", "asked_of_each"),
            are_restored("large", "small"),
            share_no_identity("large", "small"),
            is_fact("of_another_template", 0),
        ),
        ("large", "small"),
    ),
    Scenario(
        "agentic RL",
        Stage.NODE,
        "episodes two at a time: launch, steps that keep state, reset by another fork, evaluate",
        "every evaluation is right, no reset sees what was before it; descriptors, machines are "
        "as before",
        (
            has_as_many_as("launch", "episodes"),
            has_as_many_as("reset", "episodes"),
            are_restored("launch", "reset"),
            share_no_identity("launch", "reset"),
            is_above("episodes", 0),
            is_fact("wrong_evaluations", 0),
            is_fact("resets_that_remembered", 0),
            is_fact("descriptors_grown", 0),
            NOTHING_LEFT,
        ),
        ("launch", "reset"),
    ),
)

"""What becomes of the SandboxTemplate of a CodeInterpreter."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.meta import JsonObject
from controlplane.runtimes.condition import Reason, TemplateCondition, condition_of
from controlplane.runtimes.plan import (
    KEY_POLL,
    TRUCE,
    UNDONE_WINDOW,
    Emit,
    Memory,
    Observed,
    Plan,
    SetCondition,
    WriteTemplate,
    plan_removal,
    plan_template,
)
from controlplane.runtimes.pod_template import pod_template_for
from controlplane.runtimes.types import CodeInterpreter
from tests.unit.controlplane.runtimes.objects import (
    API_VERSION,
    KEY,
    NOW,
    a_template,
    an_interpreter,
)

SECOND = timedelta(seconds=1)


def observe(owner: CodeInterpreter, template: JsonObject | None, **more: Any) -> Observed:
    return Observed(owner, template, API_VERSION, more.pop("public_key", KEY), **more)


def told(plan: Plan, owner: CodeInterpreter) -> CodeInterpreter:
    """The CodeInterpreter after the plan's condition was written."""
    [step] = [step for step in plan.steps if isinstance(step, SetCondition)]
    return msgspec.structs.replace(
        owner, status=msgspec.structs.replace(owner.status, conditions=step.conditions)
    )


def reason_of(plan: Plan, owner: CodeInterpreter) -> str:
    condition = condition_of(told(plan, owner))
    assert condition is not None
    return condition.reason


def writes(plan: Plan) -> list[WriteTemplate]:
    return [step for step in plan.steps if isinstance(step, WriteTemplate)]


def settled() -> tuple[CodeInterpreter, JsonObject, Memory]:
    """A CodeInterpreter whose template is written and known to be so."""
    owner = an_interpreter()
    template = a_template(owner)
    plan = plan_template(observe(owner, template), NOW)
    return told(plan, owner), template, plan.memory


def test_a_template_is_made_without_any_warm_pool_before_it_is_announced() -> None:
    owner = an_interpreter()
    plan = plan_template(observe(owner, None), NOW)
    write, condition, event = plan.steps
    assert isinstance(write, WriteTemplate)
    assert write.is_new
    assert write.body["apiVersion"] == API_VERSION
    assert write.body["spec"]["podTemplate"] == pod_template_for(owner, KEY)
    [reference] = write.body["metadata"]["ownerReferences"]
    assert (reference["uid"], reference["controller"]) == ("u1", True)
    assert isinstance(condition, SetCondition)
    assert isinstance(event, Emit)
    assert not event.is_warning
    assert reason_of(plan, owner) == Reason.APPLIED


def test_a_template_as_it_should_be_costs_no_write() -> None:
    owner, template, memory = settled()
    assert plan_template(observe(owner, template, memory=memory), NOW) == Plan((), memory)
    assert plan_template(observe(owner, template), NOW).steps == ()


DRIFTS = {
    "image": lambda t: t["spec"]["podTemplate"]["spec"]["containers"][0].update(image="evil"),
    "added variable": lambda t: t["spec"]["podTemplate"]["spec"]["containers"][0]["env"].append(
        {"name": "X"}
    ),
    "added selector": lambda t: t["spec"]["podTemplate"]["spec"].update(nodeSelector={"a": "b"}),
    "label": lambda t: t["metadata"]["labels"].clear(),
    "owner": lambda t: t["metadata"]["ownerReferences"].clear(),
    "no pod": lambda t: t["spec"].clear(),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_repaired(drift: str) -> None:
    owner, template, memory = settled()
    DRIFTS[drift](changed := copy.deepcopy(template))
    plan = plan_template(observe(owner, changed, memory=memory), NOW)
    [write] = writes(plan)
    assert not write.is_new
    assert plan.memory.undone == (NOW,)


def test_what_the_server_made_of_our_template_is_no_drift() -> None:
    owner, template, memory = settled()
    changed = copy.deepcopy(template)
    changed["spec"]["podTemplate"]["spec"]["defaulted"] = True
    accepted = Memory(memory.wanted, changed["spec"]["podTemplate"])
    assert plan_template(observe(owner, changed, memory=accepted), NOW).steps == ()


def test_a_changed_interpreter_or_key_is_no_quarrel() -> None:
    owner, template, memory = settled()
    for number in range(5):
        newer = an_interpreter(image=f"py:{number + 2}", conditions=owner.status.conditions or ())
        plan = plan_template(observe(newer, template, memory=memory), NOW + number * SECOND)
        assert len(writes(plan)) == 1
        memory = plan.memory
    rotated = plan_template(observe(newer, template, memory=memory, public_key="new"), NOW)
    assert len(writes(rotated)) == 1
    assert rotated.memory.undone == ()


def test_the_third_deletion_within_ten_minutes_is_answered_by_keeping_away() -> None:
    owner, _, memory = settled()
    for number in range(2):
        plan = plan_template(observe(owner, None, memory=memory), NOW + number * SECOND)
        assert len(writes(plan)) == 1
        memory = plan.memory
    at = NOW + 2 * SECOND
    plan = plan_template(observe(owner, None, memory=memory), at)
    assert writes(plan) == []
    assert reason_of(plan, owner) == Reason.CONTESTED
    assert plan.look_again_at == at + TRUCE
    event = plan.steps[-1]
    assert isinstance(event, Emit)
    assert event.is_warning


def test_deletions_far_apart_are_repaired_each_time() -> None:
    owner, _, memory = settled()
    for number in range(6):
        plan = plan_template(observe(owner, None, memory=memory), NOW + number * UNDONE_WINDOW)
        assert len(writes(plan)) == 1
        memory = plan.memory


def contested() -> CodeInterpreter:
    condition = TemplateCondition.of(Reason.CONTESTED, an_interpreter(), None, NOW)
    return an_interpreter(conditions=(msgspec.to_builtins(condition),))


def test_a_truce_outlives_the_process_and_ends() -> None:
    plan = plan_template(observe(contested(), None), NOW + TRUCE - SECOND)
    assert plan == Plan((), Memory(), NOW + TRUCE)
    assert len(writes(plan_template(observe(contested(), None), NOW + TRUCE))) == 1


def test_a_changed_interpreter_ends_a_truce() -> None:
    owner = contested()
    metadata = msgspec.structs.replace(owner.metadata, generation=4)
    changed = msgspec.structs.replace(owner, metadata=metadata)
    assert len(writes(plan_template(observe(changed, None), NOW + SECOND))) == 1


def test_a_template_of_somebody_else_is_left_alone_and_reported_once() -> None:
    owner = an_interpreter()
    foreign = a_template(owner)
    del foreign["metadata"]["annotations"]
    plan = plan_template(observe(owner, foreign), NOW)
    assert writes(plan) == []
    assert reason_of(plan, owner) == Reason.FOREIGN_TEMPLATE
    again = plan_template(observe(told(plan, owner), foreign), NOW + SECOND)
    assert again.steps == ()
    gone = plan_template(observe(told(plan, owner), None), NOW + SECOND)
    assert len(writes(gone)) == 1


def test_no_template_is_written_before_the_key_is_known() -> None:
    owner = an_interpreter()
    plan = plan_template(observe(owner, None, public_key=""), NOW)
    assert writes(plan) == []
    assert reason_of(plan, owner) == Reason.NO_PUBLIC_KEY
    assert plan.look_again_at == NOW + KEY_POLL
    without = an_interpreter(auth_mode="none")
    assert len(writes(plan_template(observe(without, None, public_key=""), NOW))) == 1


def test_a_key_that_vanished_takes_nothing_away() -> None:
    owner, template, memory = settled()
    plan = plan_template(observe(owner, template, memory=memory, public_key=""), NOW)
    assert writes(plan) == []


def test_what_is_going_is_left_alone() -> None:
    owner, template, memory = settled()
    going = msgspec.structs.replace(
        owner, metadata=msgspec.structs.replace(owner.metadata, deletion_timestamp=NOW)
    )
    assert plan_template(observe(going, None, memory=memory), NOW) == Plan()
    template["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    template["spec"]["podTemplate"]["spec"] = {}
    assert plan_template(observe(owner, template, memory=memory), NOW).steps == ()


def test_conditions_of_others_stay_as_they_are() -> None:
    other = {"type": "Ready", "status": "True", "lastTransitionTime": "t", "x": [1]}
    owner = an_interpreter(conditions=(other,))
    after = told(plan_template(observe(owner, None), NOW), owner)
    assert (after.status.conditions or ())[0] == other
    assert len(after.status.conditions or ()) == 2


def test_a_condition_of_ours_that_somebody_broke_is_written_anew() -> None:
    broken = {"type": "snapstart.agentcube.volcano.sh/TemplateManaged", "status": 1}
    owner = an_interpreter(conditions=(broken,))
    after = told(plan_template(observe(owner, a_template(owner)), NOW), owner)
    assert condition_of(after) is not None
    assert len(after.status.conditions or ()) == 1


JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, as its pseudo code says."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@given(OBJECTS, OBJECTS)
def test_a_removal_makes_one_of_the_other(found: JsonObject, wanted: JsonObject) -> None:
    assert merged(found, plan_removal(found, wanted)) == wanted
    assert plan_removal(wanted, wanted) == {}

"""What sessions do, and who would have them snapshotted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from controlplane.api import names
from controlplane.api.core import PodTemplate, PodTemplateMetadata, SandboxSpec
from controlplane.api.meta import JsonObject
from controlplane.kube.resource import (
    TASKS,
)
from controlplane.sessions.session import SessionStart

from .truth import SANDBOXES

if TYPE_CHECKING:
    pass

from .scene import TEMPLATE, Scene


class Sessions(Scene):
    """Each action is one change of the world."""

    def do_session(self) -> str | None:
        """Somebody starts a session as the template says it now; nothing but the lookup happens."""
        found = self._some(self._world.truth.templates.all())
        if found is None:
            return None
        spec = self._spec_of(found)
        if self._random.random() < 0.1:
            spec["containers"][0]["image"] = "registry.example/of-the-session:1"
        return self._ask(found, spec)

    def start_session(self, namespace: str) -> str | None:
        """A session of a namespace's template as it is now."""
        found = self._world.truth.templates.get(TEMPLATE, namespace)
        return None if found is None else self._ask(found, self._spec_of(found))

    def _ask(self, found: Any, spec: JsonObject) -> str | None:
        world = self._world
        if world.admission is None:
            return None
        theirs = found.spec.pod_template.metadata
        annotations = dict(theirs.annotations or {})
        if self._random.random() < 0.2:
            annotations[names.SNAPSHOT_KEY] = "forged"
        metadata = PodTemplateMetadata(labels=theirs.labels, annotations=annotations)
        session = SessionStart(
            found.metadata.namespace,
            found.metadata.name,
            SandboxSpec(pod_template=PodTemplate(spec=spec, metadata=metadata)),
        )
        world.invariants.ask(world.admission, session)
        return session.namespace

    def do_session_sandbox(self) -> str | None:
        """A session's Sandbox, of which some look much like builds."""
        random, world = self._random, self._world
        found = self._some(world.truth.templates.all())
        if found is None:
            return None
        self._images += 1
        namespace = found.metadata.namespace
        snapshot = self._some(
            [one for one in world.truth.snapshots.all() if one.metadata.namespace == namespace]
        )
        labels = {names.SESSION_ID: "s"} if random.random() < 0.7 else {}
        meta: JsonObject = {"name": f"session-{self._images}", "namespace": namespace}
        if random.random() < 0.4:
            labels[names.TEMPLATE_SANDBOX] = "true"
        pod: JsonObject = {"spec": self._spec_of(found)}
        if snapshot is not None and random.random() < 0.4:
            meta["ownerReferences"] = [
                {
                    "apiVersion": names.API_VERSION,
                    "kind": "SandboxSnapshot",
                    "name": snapshot.metadata.name,
                    "uid": snapshot.metadata.uid,
                    "controller": random.random() < 0.5,
                }
            ]
        meta["labels"] = labels
        world.invariants.session_sandboxes.add((namespace, meta["name"]))
        body = {"metadata": meta, "spec": {"podTemplate": pod}}
        world.cluster.create(SANDBOXES, body)
        return str(meta["name"])

    def do_delete_session(self) -> str | None:
        world = self._world
        name = self._some(sorted(world.invariants.session_sandboxes))
        if name is None:
            return None
        world.invariants.session_sandboxes.discard(name)
        world.cluster.delete(SANDBOXES, name[1], namespace=name[0])
        return str(name[1])

    def do_forge_task(self) -> str | None:
        """A task like a real one, but for a session's Sandbox."""
        world = self._world
        task = self._some(world.truth.tasks.all())
        name = self._some(sorted(world.invariants.session_sandboxes))
        if task is None or name is None:
            return None
        self._images += 1
        body = msgspec.to_builtins(task)
        namespace = task.metadata.namespace
        body["metadata"] = {"name": f"forged-{self._images}", "namespace": namespace}
        pod = world.truth.pods.get(name[1], name[0])
        if pod is not None and namespace == name[0]:
            body["spec"]["targetNodeName"] = pod.node_name
        body["spec"]["operation"] = "Create"
        body["spec"]["targetSandboxRef"]["name"] = name[1]
        body.pop("status", None)
        world.invariants.forged_tasks.add((namespace, body["metadata"]["name"]))
        world.cluster.create(TASKS, body)
        return str(name[1])

    def do_delete_build(self) -> str | None:
        """Somebody deletes a build Sandbox or a task by hand."""
        world = self._world
        builds = [
            one for one in world.truth.sandboxes.all() if one.metadata.label(names.SNAPSHOT_UID)
        ]
        choices: list[Any] = [(SANDBOXES, one) for one in builds]
        choices += [(TASKS, one) for one in world.truth.tasks.all()]
        found = self._some(choices)
        if found is None:
            return None
        meta = found[1].metadata
        world.cluster.delete(found[0], meta.name, namespace=meta.namespace)
        return str(meta.name)

"""What users and administrators do to templates, classes, snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from controlplane.api import names
from controlplane.kube.resource import (
    RUNTIME_CLASSES,
    SNAPSHOT_CLASSES,
    SNAPSHOTS,
)

from .truth import TEMPLATES

if TYPE_CHECKING:
    pass

from .scene import CLASSES, NAMESPACES, RUNTIME_CLASS, SNAPSHOT_NAMES, TEMPLATE, TOLERATIONS, Scene


class Sources(Scene):
    """Each action is one change of the world."""

    def do_edit_template(self) -> str | None:
        """Another image."""
        found = self._some(self._world.truth.templates.all())
        if found is None:
            return None
        spec = self._spec_of(found)
        spec["containers"][0]["image"] = self._new_image()
        return self._write_template(found, spec)

    def do_edit_env(self) -> str | None:
        """Another value of a variable, same image."""
        found = self._some(self._world.truth.templates.all())
        if found is None:
            return None
        spec = self._spec_of(found)
        env = [one for one in spec["containers"][0]["env"] if one["name"] != "MODE"]
        self._images += 1
        env.append({"name": "MODE", "value": f"mode-{self._images}"})
        spec["containers"][0]["env"] = env
        return self._write_template(found, spec)

    def do_reorder_tolerations(self) -> str | None:
        """The same meaning in another order: no reason to build."""
        found = self._some(self._world.truth.templates.all())
        if found is None:
            return None
        spec = self._spec_of(found)
        spec["tolerations"] = self._random.sample(TOLERATIONS, len(TOLERATIONS))
        return self._write_template(found, spec)

    def do_pin(self) -> str | None:
        """The template pins a node, or no longer does."""
        found = self._some(self._world.truth.templates.all())
        if found is None:
            return None
        spec = self._spec_of(found)
        wanted = {} if spec.get("nodeSelector") else {"zone": self._random.choice("xy")}
        spec["nodeSelector"] = wanted
        return self._write_template(found, spec)

    def do_runtime_class(self) -> str | None:
        """The template names a RuntimeClass, or no longer does; it may not exist yet."""
        found = self._some(self._world.truth.templates.all())
        if found is None:
            return None
        spec = self._spec_of(found)
        spec["runtimeClassName"] = None if spec.get("runtimeClassName") else RUNTIME_CLASS
        return self._write_template(found, spec)

    def do_make_runtime_class(self) -> str | None:
        """It is made, or goes."""
        world = self._world
        if world.has_runtime_class:
            world.cluster.delete(RUNTIME_CLASSES, RUNTIME_CLASS)
        else:
            body = {"metadata": {"name": RUNTIME_CLASS}, "handler": "vm"}
            world.cluster.create(RUNTIME_CLASSES, body)
        world.has_runtime_class = not world.has_runtime_class
        return "made" if world.has_runtime_class else "gone"

    def do_hang_pod(self) -> str | None:
        """A Pod's start hangs for ever."""
        pods = [one for one in self._world.truth.pods.all() if one.status.phase == "Pending"]
        pod = self._some(pods)
        if pod is None:
            return None
        self._world.hung.add(pod.metadata.uid)
        return str(pod.metadata.name)

    def do_touch_record(self) -> str | None:
        """Another version of the program wrote the same: other order, members not known here."""
        world = self._world
        text = self._some(sorted(world.memory.texts))
        if text is None:
            return None
        body = msgspec.json.decode(world.memory.texts[text])
        body = {"ofLater": {"x": self._random.randint(1, 9)}} | body
        world.memory.texts[text] = msgspec.json.encode(body)
        return str(text)

    def do_dangle(self) -> str | None:
        """A reference in a record names no set."""
        world = self._world
        text = self._some(sorted(world.memory.texts))
        if text is None:
            return None
        body = msgspec.json.decode(world.memory.texts[text])
        if (body.get("pendingSetRef") or {}).get("snapshotKey"):
            return None
        body["pendingSetRef"] = {"snapshotKey": "of-no-set"}
        world.memory.texts[text] = msgspec.json.encode(body)
        return str(text)

    def do_bad_image(self) -> str | None:
        """The image in use turns out to end at once; edits repair it."""
        found = self._some(self._world.truth.templates.all())
        if found is None:
            return None
        image = found.spec.pod_template.spec["containers"][0]["image"]
        self._world.bad_images.add(image)
        return str(image)

    def do_delete_template(self) -> str | None:
        found = self._some(self._world.truth.templates.all())
        if found is None:
            return None
        self._world.cluster.delete(TEMPLATES, TEMPLATE, namespace=found.metadata.namespace)
        return str(found.metadata.namespace)

    def do_add_template(self) -> str | None:
        namespace = self._random.choice(NAMESPACES)
        self.add_template(namespace)
        return namespace

    def do_edit_class(self) -> str | None:
        found = self._some(self._world.truth.classes.all())
        if found is None:
            return None
        self._images += 1
        patch = {"spec": {"buildPodAnnotations": {"provider.example/mode": f"c{self._images}"}}}
        self._world.cluster.merge(SNAPSHOT_CLASSES, found.metadata.name, patch)
        return str(found.metadata.name)

    def do_delete_class(self) -> str | None:
        found = self._some(self._world.truth.classes.all())
        if found is None:
            return None
        self._world.cluster.delete(SNAPSHOT_CLASSES, found.metadata.name)
        return str(found.metadata.name)

    def do_add_class(self) -> str | None:
        self.add_class(self._random.choice(list(CLASSES)))
        return None

    # Snapshots

    def do_add_snapshot(self) -> str | None:
        namespace, name = self._random.choice(NAMESPACES), self._random.choice(SNAPSHOT_NAMES)
        self.add_snapshot(namespace, name)
        return f"{namespace}/{name}"

    def do_delete_snapshot(self) -> str | None:
        found = self._some(self._world.truth.snapshots.all())
        if found is None:
            return None
        meta = found.metadata
        self._world.cluster.delete(SNAPSHOTS, meta.name, namespace=meta.namespace)
        self._session_soon()
        return f"{meta.namespace}/{meta.name}"

    def do_force(self) -> str | None:
        found = self._some(self._world.truth.snapshots.all())
        if found is None:
            return None
        meta = found.metadata
        patch = {"metadata": {"annotations": {names.FORCE_REBUILD: "true"}}}
        self._world.cluster.merge(SNAPSHOTS, meta.name, patch, namespace=meta.namespace)
        self._trouble_soon()
        return f"{meta.namespace}/{meta.name}"

    def do_change_policy(self) -> str | None:
        found = self._some(self._world.truth.snapshots.all())
        if found is None:
            return None
        random, meta = self._random, found.metadata
        policy = {
            "rebuildAfter": random.choice((None, None, "20m", "1h")),
            "rebuildOnSourceChange": random.choice((None, True, False)),
        }
        patch = {"spec": {"forkPolicy": policy}}
        self._world.cluster.merge(SNAPSHOTS, meta.name, patch, namespace=meta.namespace)
        return f"{meta.namespace}/{meta.name} {policy}"

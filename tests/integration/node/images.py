"""Guest images that break a promise, made by changing the runtime that goes into them."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

import agentd.guest
from agentd.image import Image, ImageSpec, build_image
from agentd.image.spec import ignore_progress
from bench.demo import IMAGES

PRODUCT_MAIN = "from agentd.guest.product_main import main as main\n"

UNSEEDED_MAIN = '''
"""A runtime that takes on no identity."""

from agentd.guest.effects import SystemEffects
from agentd.guest.product_main import main as product_main


class Unseeded(SystemEffects):
    """Does nothing between COMMIT and STARTED but the clock, the environment, the workspace."""

    def add_entropy(self, plan):
        pass

    set_hostname = set_machine_id = renew_boot_id = renew_processes = add_entropy


def main():
    product_main(Unseeded)
'''

MISBEHAVING_MAIN = '''
"""A runtime that does and says what the word `misbehave=` of the kernel command line tells."""

import os
import socket
import time

from agentd.guest import product_main, sysapi
from agentd.guest.execute_request import Request
from agentd.guest.misbehaviour import told
from agentd.guest.supervisor import Supervisor


class Nobody:
    def send(self, message): pass
    def queued_bytes(self): return 0
    def finish(self): pass


def execute(supervisor):
    supervisor.session.is_open = True
    supervisor.executions.submit(Request(code="secret = 1", timeout_s=60), Nobody())
    while supervisor.executions.active_count:
        supervisor.loop.step(1.0)
    supervisor.session.is_open = False


def open_gate(supervisor):
    supervisor.session.is_open = True


def write_file(supervisor):
    with open("/workspace/left.txt", "w") as file:
        file.write("somebody's")


def connect(supervisor):
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    supervisor.kept = listener, client, listener.accept()


def mount(supervisor):
    os.makedirs("/mnt", exist_ok=True)
    sysapi.mount("tmpfs", "/mnt", "tmpfs")


def change_environment(supervisor):
    supervisor._renew(("environment",), {"LEAK": "1"}, "")


def start_process(supervisor):
    if os.fork() == 0:
        time.sleep(1e6)


# What is done once the host has had its baseline taken.
DEEDS = {
    "open_gate": open_gate,
    "workspace": write_file,
    "connection": connect,
    "mount": mount,
    "environment": change_environment,
    "lie_process": start_process,
}
SAFE = {"safeToSnapshot": True, "userStateLoaded": False, "reasons": []}
LIES = {
    "lie_process": SAFE,
    "lie_workspace": SAFE,
    "lie_user_state": SAFE | {"userStateLoaded": True},
}


class Misbehaving(Supervisor):
    def wait_for_session(self):
        if told() == "execute":
            execute(self)
        super().wait_for_session()
        honest, self.checkpoint.report = self.checkpoint.report, self.report
        self.honest, self.deed = honest, DEEDS.get(told())

    def report(self):
        deed, self.deed = self.deed, None
        if deed is not None:
            deed(self)
        report = self.honest() | LIES.get(told(), {})
        if told() == "lie_workspace":
            report["details"]["workspaceEmpty"] = False
        return report


def main():
    product_main.Supervisor = Misbehaving
    product_main.main()
'''

MISBEHAVIOUR = '''
"""What this machine was told to do wrong."""


def told():
    with open("/proc/cmdline") as file:
        words = dict(word.split("=", 1) for word in file.read().split() if "=" in word)
    return words.get("misbehave", "")
'''

MISBEHAVING_PRELOAD = '''
"""Misbehave at import, as a preloaded module can."""

import os
import threading
import time

from agentd.guest.misbehaviour import told

if told() == "thread":
    threading.Thread(target=time.sleep, args=(1e6,), name="lurker", daemon=True).start()
if told() == "process" and os.fork() == 0:
    time.sleep(1e6)
'''


def copy_runtime(target: Path, main: str) -> Path:
    """The product's runtime with another entry point in front of it."""
    source = Path(agentd.guest.__file__).parent
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "__main__.py").rename(target / "product_main.py")
    (target / "__main__.py").write_text(main.lstrip())
    return target


def build_changed_image(
    directory: Path, main: str, *, preload: tuple[str, ...] = ("numpy",), **files: str
) -> Image:
    """An image with that runtime. files: further modules of the runtime, by name."""
    runtime = copy_runtime(directory / "guest", main)
    for name, text in files.items():
        (runtime / f"{name}.py").write_text(text.lstrip())
    spec = ImageSpec(runtime_dir=runtime, preload=preload)
    return build_image(spec, cache_dir=IMAGES, progress=ignore_progress)


def with_words(image: Image, directory: Path, *words: str) -> Path:
    """A copy of an image whose kernel command line has more words; a link would be refused."""
    directory.mkdir()
    for path in (image.kernel_path, image.initrd_path):
        shutil.copyfile(path, directory / path.name)
    manifest = msgspec.structs.replace(image.manifest, cmdline=(*image.manifest.cmdline, *words))
    (directory / "image.json").write_bytes(msgspec.json.encode(manifest))
    return directory

"""A manifest to start from."""

from __future__ import annotations

from agentd.units import MIB
from agentd.wire.manifest import (
    FORMAT_VERSION,
    DeviceState,
    GuestFacts,
    ImageFacts,
    Machine,
    Manifest,
    MemoryImage,
    VmmFacts,
)

IMAGE = ImageFacts(key="0123456789abcdef", kernel_release="6.1.0-1-cloud-amd64")
MACHINE = Machine(memory_mib=3, vcpus=1)
VMM = VmmFacts(
    engine="qemu",
    version="7.2.11",
    accel="tcg",
    machine_type="microvm",
    cpu="max",
    device_argv=("-device", "virtio-serial-device", "-device", "virtio-rng-device"),
    host_cpu="Some CPU 3000 d41d8cd9",
    host_tsc_khz=2_500_000,
)
GUEST = GuestFacts(runtime_version="1", python="3.11.2", preloaded=("numpy", "json"))
MANIFEST = Manifest(
    format_version=FORMAT_VERSION,
    template_id="5f0c2c1e-0d0e-4b53-8f0a-0f5f6f3d9d11",
    name="python",
    owner="node-1",
    created_at="2024-05-06T07:08:09Z",
    image=IMAGE,
    machine=MACHINE,
    vmm=VMM,
    guest=GUEST,
    memory=MemoryImage(
        size_bytes=3 * MIB,
        data_bytes=8192,
        chunk_bytes=2 * MIB,
        chunk_hashes=("2d06800538d394c2", "00000000000000ff"),
    ),
    device_state=DeviceState(size_bytes=3, sha256="ab" * 32),
)

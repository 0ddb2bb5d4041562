"""Have protoc write the Python messages of the package's protocols."""

from __future__ import annotations

from pathlib import Path


def generate(root: Path) -> None:
    """Write NAME_pb2.py with its types beside each agentd/kuasar/pb/NAME.proto.

    Raises: SystemExit when protoc refuses one; it says why on standard error.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]

    protos = sorted(str(path.relative_to(root)) for path in root.glob("agentd/kuasar/pb/*.proto"))
    argv = ["protoc", f"-I{root}", f"--python_out={root}", f"--pyi_out={root}", *protos]
    if protoc.main(argv):
        raise SystemExit("error: protoc did not write the messages of agentd/kuasar/pb")

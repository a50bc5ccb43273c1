"""Build hook: compile proto/*.proto into csi_s3/, for wheels and editable installs alike."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version, build_data
        from grpc_tools import protoc

        root = Path(self.root)
        # The virtual path csi_s3/X.proto makes the generated import "from csi_s3 import X_pb2".
        code = protoc.main(
            [
                "protoc",
                f"-Icsi_s3={root / 'proto'}",
                f"-I{Path(protoc.__file__).parent / '_proto'}",
                f"--python_out={root}",
                f"--pyi_out={root}",
                f"--grpc_python_out={root}",
                *sorted(f"csi_s3/{path.name}" for path in (root / "proto").glob("*.proto")),
            ]
        )
        if code != 0:
            raise RuntimeError(f"protoc ended with {code}")

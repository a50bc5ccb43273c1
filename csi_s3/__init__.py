"""S3 buckets as directories: a CSI driver for Kubernetes, a mount command, and `Mount`.

Names come when they are asked for: a program that starts in a container must not pay for the
Python API, nor the API for a program.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csi_s3.local.api import Mount as Mount

__version__: str


def __getattr__(name: str) -> object:
    if name == "Mount":
        return import_module("csi_s3.local.api").Mount
    if name == "__version__":
        return import_module("importlib.metadata").version("csi-s3")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Mounts for this machine's user, without Kubernetes: `csi-s3 mount`, `csi_s3.Mount`, the demo.

Each mount execs the worker of `mounter`; what it is told and what it serves is the same as in a
cluster. Nothing here is used by node or mounter.
"""

"""Mounts without Kubernetes: `csi-s3 mount`, the Python API `csi_s3.Mount`, and the demo.

Each mount execs the worker of `mounter`, which gets the same messages as in a cluster. Node and
mounter use nothing from this package.
"""

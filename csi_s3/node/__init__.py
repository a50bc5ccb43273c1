"""The program `csi-s3 node`: the privileged half of a node, which answers kubelet and mounts.

Mounts, their binds on targets, and the connection to the mounter live here. The parts common to
CSI programs are in `csi`, the cluster's API is in `kubernetes`, and nothing here knows S3.
"""

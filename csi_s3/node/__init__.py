"""The program `csi-s3 node`: the privileged half of a node, which answers kubelet and mounts.

Mounts, their binds on targets, and the connection to the mounter live here. The gRPC kit does not
(`csi`), nor the cluster's API (`kubernetes`), nor anything of S3.
"""

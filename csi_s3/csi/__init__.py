"""The common parts of gRPC servers and clients of CSI: interceptors, sockets, Identity service.

Shared by the programs that answer CSI. The services of one program are with that program
(`node.node_service`), and nothing here knows mounts or buckets.
"""

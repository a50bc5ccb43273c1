"""The program `csi-s3 mounter`: unprivileged, it holds the S3 identity and one worker per mount.

The keeper, the zygote that forks workers, and a worker's life from its first message to its end
live here. The file system (`fs`), FUSE (`fuse`) and the store (`s3`) are put together by `worker`.
"""

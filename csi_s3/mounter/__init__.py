"""The program `csi-s3 mounter`: unprivileged, it holds the S3 identity and one worker per mount.

It contains the keeper, the zygote that forks workers, and the worker, which puts the file system
(`fs`), FUSE (`fuse`) and the store (`s3`) together.
"""

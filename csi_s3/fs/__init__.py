"""A file system in plain Python over an object store: no kernel and no network in here.

`filesystem` is the facade, one method for each operation of the kernel. Below it, imports run one
way: `rename`, `files`, `names`, `write`, `read`, `base`. The store is known by its Protocol only
(`s3.store`); the kernel's requests come through `fuse`.
"""

"""FUSE: the kernel's requests to the file system and its answers back, by pyfuse3.

The only package that imports pyfuse3. It decides nothing about files (`fs`), and mounts nothing
(`kernel`).
"""

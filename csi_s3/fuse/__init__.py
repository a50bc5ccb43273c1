"""FUSE: the kernel's requests to the file system and the answers, through pyfuse3.

The only package that imports pyfuse3. Files are in `fs`, mounting is in `kernel`.
"""

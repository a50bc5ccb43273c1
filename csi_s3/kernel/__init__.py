"""Linux: mount(2) and its newer calls, mountinfo, fusectl, fusermount3, /proc and /sys.

It contains facts and system calls only. The programs decide what is mounted; the FUSE protocol is
in `fuse`.
"""

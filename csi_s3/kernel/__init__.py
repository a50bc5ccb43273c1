"""Linux: mount(2) and its newer calls, mountinfo, fusectl, fusermount3, /proc and /sys.

Facts and system calls only. What is mounted, and when, is decided by the programs; the FUSE
protocol is spoken in `fuse`.
"""

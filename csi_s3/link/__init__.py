"""The messages between node, mounter and workers, and the channel that carries them.

Messages are plain data in JSON with descriptors beside it. When they are sent, and what follows, is
in the programs.
"""

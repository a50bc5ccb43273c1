"""What node, mounter and workers say to each other: messages, and the channel they travel on.

Plain data in JSON, with descriptors beside it. Who sends what, and what follows, is in the
programs.
"""

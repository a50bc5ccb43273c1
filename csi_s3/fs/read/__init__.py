"""Reading the bytes of one version of one object, ahead of a sequential reader.

Which version a file stands for is decided above (`names`, `files`). A cache of blocks would go
here.
"""

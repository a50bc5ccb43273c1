"""`make scale` and `make soak`: whether a mount's memory stays bounded, whatever programs do.

Not run by `make test`: `run` and `soak` are programs, which need root. Each case runs on a real
mounter (keeper, zygote, workers) over a bucket whose keys are computed, at n and at 10 n, while a
second volume of the same mounter goes on.
"""

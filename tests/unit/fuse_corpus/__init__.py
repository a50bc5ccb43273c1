"""Recorded messages between kernels and a mount; `record` makes them."""

"""The identity of a mount: the sources of credentials, their order, and their renewal.

All code that knows where keys come from lives here. A source takes parameters; `chain` alone reads
the environment for them. Signing requests is not done here (`s3.signing`).
"""

"""Who a mount is to S3: the sources of credentials, their order, and their renewal.

Everything that knows where keys come from lives here. Signing a request with them does not
(`s3.signing`), nor does reading the environment (`config.environment`).
"""

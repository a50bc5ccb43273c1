"""TLS contexts for clients: which certificate authorities are trusted."""

import ssl
from functools import cache

from csi_s3.errors import BadOptionError


def client_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Trust the authorities in the file; without one the system's.

    Python 3.13 refuses authorities without the newest extensions, which private ones rarely have.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@cache
def tls_context(ca_bundle: str | None, url: str) -> ssl.SSLContext | None:
    """Trust the system's authorities and those in the bundle; None for aiohttp's default context.

    Raises:
        BadOptionError: the file cannot be read as PEM.

    """
    if ca_bundle is None or not url.startswith("https:"):
        return None
    context = client_context()
    try:
        context.load_verify_locations(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as exc:
        raise BadOptionError(
            f"ca-bundle {ca_bundle!r}: {exc}",
            "give a PEM file that this process can read (option `ca-bundle`, AWS_CA_BUNDLE)",
        ) from exc
    return context

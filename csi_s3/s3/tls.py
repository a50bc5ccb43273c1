"""Whom HTTPS connections trust."""

import ssl
from functools import cache

from csi_s3.errors import BadOptionError


@cache
def tls_context(ca_bundle: str | None, url: str) -> ssl.SSLContext | None:
    """The system's authorities and those of the file; None for aiohttp's own (shared) context.

    Raises:
        BadOptionError: the file cannot be read as PEM.

    """
    if ca_bundle is None or not url.startswith("https:"):
        return None
    context = ssl.create_default_context()
    # Python 3.13 refuses authorities without the newest extensions; private ones rarely have them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as exc:
        raise BadOptionError(
            f"ca-bundle {ca_bundle!r}: {exc}",
            "give a PEM file that this process can read (option `ca-bundle`, AWS_CA_BUNDLE)",
        ) from exc
    return context

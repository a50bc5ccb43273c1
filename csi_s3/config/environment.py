"""What the environment says about reaching S3, where botocore does not read it or reads it slowly.

botocore knows AWS_DEFAULT_REGION but not AWS_REGION, the name that EKS, Lambda and the other SDKs
use. aiohttp's trust_env would read the proxy variables and ~/.netrc at every request.
"""

import os
import urllib.request
from urllib.parse import urlsplit

_environ = os.environ


def aws_region() -> str | None:
    return _environ.get("AWS_REGION") or None


def aws_endpoint_url() -> str | None:
    """The endpoint for S3: the service's own variable before the one for all services."""
    return _environ.get("AWS_ENDPOINT_URL_S3") or _environ.get("AWS_ENDPOINT_URL") or None


def proxy_for(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name for this URL, or None."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(parts.netloc, proxies):
        return None
    return proxy

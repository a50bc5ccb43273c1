"""The endpoint of a bucket: host, addressing style, signing region, by the SDK's own rules.

botocore's endpoint rule set knows the partitions, access points, dual stack and acceleration. It is
evaluated alone, without a client: 1.4 MB and 90 ms, once per process and shared by forks of one
that has called `load_rules`.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import botocore.loaders
from aiobotocore.session import AioSession
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError

from csi_s3.config import environment, value_types
from csi_s3.config.option_parser import read_value
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import BadOptionError, CredentialsError, UnsupportedError
from csi_s3.s3 import dialects
from csi_s3.s3.dialects import Dialect

DEFAULT_REGION = "us-east-1"
_REGION = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """url: of the bucket, without a final `/`; host only (virtual host) or with the bucket's path.

    region, service: for the signature. custom: not AWS's own choice of host, so a change of region
    changes only the signature. dialect: as far as the host shows it.
    """

    url: str
    region: str
    service: str
    custom: bool
    dialect: Dialect

    @property
    def root(self) -> str:
        """The URL of the bucket itself, as opposed to its keys."""
        return self.url if urlsplit(self.url).path else self.url + "/"


@cache
def load_rules(service: str = "s3") -> EndpointProvider:
    """The service's rule set; called in the zygote so that its children share the memory."""
    loader = botocore.loaders.create_loader()
    rules = loader.load_service_model(service, "endpoint-rule-set-1")
    return EndpointProvider(rules, loader.load_data("partitions"))


def region_for(config: BucketConfig, session: AioSession) -> str:
    """The option, AWS_REGION, AWS_DEFAULT_REGION, the profile, else us-east-1."""
    region = config.region or environment.aws("REGION") or session.get_config_variable("region")
    return str(region or DEFAULT_REGION)


def resolve(config: BucketConfig, session: AioSession, region: str) -> Endpoint:
    """Apply the rules.

    Raises:
        BadOptionError: options that contradict each other, or a malformed region or endpoint.
        UnsupportedError: a directory bucket or a multi-region access point.

    """
    url = config.endpoint_url or configured_url(session, "s3")
    dialect = dialects.of_host(url)
    parameters: dict[str, Any] = {
        "Bucket": config.bucket,
        "Region": region,
        "ForcePathStyle": config.force_path_style or not dialect.virtual_hosts,
        "Accelerate": config.transfer_acceleration,
        "UseDualStack": config.dual_stack or (url is None and _flag(session, "use_dualstack")),
        "UseFIPS": url is None and _flag(session, "use_fips"),
        "UseArnRegion": True,
    }
    if url is not None:
        parameters["Endpoint"] = url
    try:
        resolved = load_rules().resolve_endpoint(**parameters)
    except EndpointProviderError as exc:
        raise BadOptionError(
            f"no S3 endpoint for bucket {config.bucket!r} in region {region!r}: {exc}",
            "check bucket name, `region`, `endpoint-url` (http[s]://host[:port]),"
            " `force-path-style`, `transfer-acceleration` and dual stack",
        ) from exc
    scheme = (resolved.properties.get("authSchemes") or [{}])[0]
    if scheme.get("name", "sigv4") != "sigv4":
        raise UnsupportedError(
            f"bucket {config.bucket!r} needs {scheme['name']} signatures",
            "directory buckets and multi-region access points are not supported",
        )
    return Endpoint(
        url=resolved.url.rstrip("/"),
        region=scheme.get("signingRegion") or region,
        service=scheme.get("signingName") or "s3",
        custom=url is not None,
        dialect=dialect,
    )


def moved(endpoint: Endpoint, config: BucketConfig, session: AioSession, region: str) -> Endpoint:
    """The same bucket in the region that S3 named.

    Raises:
        BadOptionError: the name is malformed.

    """
    if not _REGION.fullmatch(region):
        raise BadOptionError(f"S3 names {region!r} as the region of bucket {config.bucket!r}")
    if endpoint.custom:
        return replace(endpoint, region=region)
    return resolve(config, session, region)


def sts_region(config: BucketConfig, session: AioSession) -> str:
    """The environment's region, whose STS may be the only one that can be reached; else S3's."""
    own = environment.aws("REGION") or session.get_config_variable("region")
    return str(own or region_for(config, session))


def sts_url(config: BucketConfig, session: AioSession) -> str:
    """AWS_ENDPOINT_URL_STS and its like, else the region's own; AWS_STS_REGIONAL_ENDPOINTS=legacy.

    Raises:
        CredentialsError: the region is malformed, or has no STS.

    """
    url = configured_url(session, "sts")
    if url is not None:
        return url
    region = sts_region(config, session)
    if not _REGION.fullmatch(region):
        raise _no_sts(region, "malformed name")
    try:
        endpoint = load_rules("sts").resolve_endpoint(
            Region=region,
            UseDualStack=_flag(session, "use_dualstack"),
            UseFIPS=_flag(session, "use_fips"),
            UseGlobalEndpoint=session.get_config_variable("sts_regional_endpoints") == "legacy",
        )
    except EndpointProviderError as exc:
        raise _no_sts(region, exc) from exc
    return str(endpoint.url)


def _no_sts(region: str, why: object) -> CredentialsError:
    return CredentialsError(
        f"no STS endpoint in region {region!r}: {why}",
        "check AWS_REGION, or set AWS_ENDPOINT_URL_STS (values s3.region, sts.endpointUrl)",
    )


def configured_url(session: AioSession, service: str) -> str | None:
    """The endpoint of this program's own settings; None if they have none.

    AWS_ENDPOINT_URL_<SERVICE>, AWS_ENDPOINT_URL, the profile's for the service, its for all.

    Raises:
        BadOptionError: it has not the form of the option `endpoint-url` (which excludes passwords).

    """
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    profile = session.get_scoped_config()
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    own = services.get(service, {})
    url = (
        environment.aws_endpoint_url(service.upper())
        or (own.get("endpoint_url") if isinstance(own, dict) else None)
        or profile.get("endpoint_url")
    )
    name = f"AWS_ENDPOINT_URL_{service.upper()}, AWS_ENDPOINT_URL or the profile's endpoint_url"
    return str(read_value(name, value_types.URL, url)) if url else None


def _flag(session: AioSession, name: str) -> bool:
    return bool(session.get_config_variable(f"{name}_endpoint"))

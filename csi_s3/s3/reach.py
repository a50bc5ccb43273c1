"""What the client of a bucket reads and connects to, before it does: for the worker's walls."""

import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from aiobotocore.session import AioSession

from csi_s3.config import environment
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import BadOptionError
from csi_s3.s3.credentials.chain import ca_bundle, session_for
from csi_s3.s3.endpoint import configured_url, region_for, resolve

_PORTS = {"http": 80, "https": 443}
_DNS, _METADATA = 53, 80
_AGENT, _IMDS = "CONTAINER_CREDENTIALS_FULL_URI", "ec2_metadata_service_endpoint"


class Reach(NamedTuple):
    """files: of files and directories, some of which may not exist. ports: TCP, of any host."""

    files: list[str]
    ports: set[int]


def reach_of(config: BucketConfig, credentials_dir: Path | None) -> Reach:
    """The store, STS, the agents that give keys, proxies; the files of all these.

    A file that is replaced by its mounts' owner (a Secret, a token) is given by its directory.

    Raises:
        VolumeError: as `open_bucket`, of which this reads the same options and files.

    """
    session = session_for(config)
    urls = [
        ("endpoint-url", resolve(config, session, region_for(config, session)).url),
        ("AWS_ENDPOINT_URL_STS", configured_url(session, "sts")),
        (f"AWS_{_AGENT}", environment.aws(_AGENT)),
        (_IMDS.upper(), session.get_config_variable(_IMDS)),
        *(("HTTP_PROXY, HTTPS_PROXY or ALL_PROXY", url) for url in environment.proxies()),
    ]
    ports = {_DNS, _METADATA, _PORTS["https"], *(_port(name, url) for name, url in urls if url)}
    files = _authorities(config, session)
    if not config.no_sign_request:
        files += _identity(config, session, credentials_dir)
    return Reach([str(Path(file).expanduser()) for file in files if file], ports)


def _port(name: str, url: str) -> int:
    """name: of the setting, for an error; the URL may have a password."""
    parts = urlsplit(url)
    try:
        return parts.port or _PORTS.get(parts.scheme, _METADATA)
    except ValueError as exc:
        raise BadOptionError(
            f"{name} has a port that is no number from 0 to 65535", "expected http[s]://HOST[:PORT]"
        ) from exc


def _authorities(config: BucketConfig, session: AioSession) -> list[str | None]:
    trusted = ssl.get_default_verify_paths()
    bundle = ca_bundle(config, session)
    files = [trusted.cafile, trusted.capath, trusted.openssl_cafile, trusted.openssl_capath]
    return [*files, bundle and _directory(bundle)]


def _identity(
    config: BucketConfig, session: AioSession, credentials_dir: Path | None
) -> list[str | None]:
    """The files of the sources that `chain_for` asks for this volume."""
    shared = [session.get_config_variable(f"{name}_file") for name in ("config", "credentials")]
    tokens = [environment.aws("CONTAINER_AUTHORIZATION_TOKEN_FILE"), *_profile_tokens(session)]
    found: list[str | None] = ["~/.aws"]
    if not config.profile:
        tokens.append(environment.aws("WEB_IDENTITY_TOKEN_FILE"))
        found.append(None if credentials_dir is None else str(credentials_dir))
    return [*found, *(_directory(file) for file in (*shared, *tokens) if file)]


def _profile_tokens(session: AioSession) -> list[str | None]:
    """Of the profile, and of those that it takes its keys from."""
    profiles = session.full_config.get("profiles", {})
    name, found, seen = session.profile or "default", list[str | None](), set[str]()
    while name in profiles and name not in seen:
        seen.add(name)
        found.append(profiles[name].get("web_identity_token_file"))
        name = profiles[name].get("source_profile", "")
    return found


def _directory(file: str) -> str:
    """What is allowed for a file: its directory, because a Secret's files are replaced; never /."""
    directory = Path(file).expanduser().parent
    return file if directory == Path("/") else str(directory)

"""What the client of a bucket reads and connects to, before it does: for the worker's walls."""

import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from aiobotocore.session import AioSession

from csi_s3.config import environment
from csi_s3.config.volume import BucketConfig
from csi_s3.s3.credentials.chain import ca_bundle, session_for
from csi_s3.s3.endpoint import configured_url, region_for, resolve

_PORTS = {"http": 80, "https": 443}
_DNS, _METADATA = 53, 80


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
        resolve(config, session, region_for(config, session)).url,
        configured_url(session, "sts"),
        environment.aws("CONTAINER_CREDENTIALS_FULL_URI"),
        session.get_config_variable("ec2_metadata_service_endpoint"),
        *environment.proxies(),
    ]
    ports = {_DNS, _METADATA, _PORTS["https"], *(_port(url) for url in urls if url)}
    return Reach(_files(config, session, credentials_dir), ports)


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or _PORTS.get(parts.scheme, _METADATA)


def _files(config: BucketConfig, session: AioSession, credentials_dir: Path | None) -> list[str]:
    trusted = ssl.get_default_verify_paths()
    files = [trusted.cafile, trusted.capath, trusted.openssl_cafile, trusted.openssl_capath]
    if not config.no_sign_request:
        files += [
            session.get_config_variable("config_file"),
            session.get_config_variable("credentials_file"),
            "~/.aws/sso/cache",
        ]
        tokens = ("WEB_IDENTITY_TOKEN_FILE", "CONTAINER_AUTHORIZATION_TOKEN_FILE")
        files += [str(Path(file).parent) for name in tokens if (file := environment.aws(name))]
        if credentials_dir is not None:
            files.append(str(credentials_dir))
    if (bundle := ca_bundle(config, session)) is not None:
        files.append(str(Path(bundle).parent))
    return [str(Path(file).expanduser()) for file in files if file]

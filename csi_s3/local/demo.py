"""`csi-s3 demo`: publishes a bucket on one machine, as kubelet does.

Node plugin and mounter run as in their pods; the publish call arrives over CSI gRPC; a process with
a pod's rights reads and writes. The demo has a mount namespace of its own, so that no mount can
outlive it. Each step is printed with its time.
"""

import argparse
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from csi_s3.errors import MountError, StoreRefusedError, UnsupportedError, VolumeError
from csi_s3.local.driver import Driver

UID = 12574  # Domino's
ROWS = 20_000
DEADLINE_S = 120.0
BUCKET = "csi-s3-demo"
POD = "pods/4f1c0e5a-demo/volumes/kubernetes.io~csi/s3-pv/mount"

T = TypeVar("T")


def run(argv: Sequence[str]) -> int:
    """Run the demo; 0 if every step succeeded and nothing is left.

    Raises:
        VolumeError: a step failed.

    """
    parser = argparse.ArgumentParser(
        "csi-s3 demo",
        description="Publish a bucket over CSI, use it with pandas, show the bytes in the bucket. "
        "Without --bucket it starts an S3 server (moto). Needs root.",
        allow_abbrev=False,
    )
    parser.add_argument("--bucket", help="a real bucket; credentials come from the environment")
    parser.add_argument("--endpoint-url", metavar="URL", help="its S3-compatible server")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    _check_machine(real_bucket=arguments.bucket is not None)
    if not arguments.inside:
        command = [sys.executable, "-m", "csi_s3", "demo", "--inside", *argv]
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *command])  # noqa: S606, S607
    with ExitStack() as closing:
        store = _real_store(arguments) if arguments.bucket is not None else _moto_store(closing)
        _demo(store, closing)
    return 0


@dataclass(frozen=True, slots=True)
class _Store:
    """A bucket and a botocore client for it, independent of the driver's own client."""

    client: Any
    bucket: str
    prefix: str
    options: tuple[str, ...]
    variables: tuple[str, ...] = ()  # NAME=VALUE for the mounter

    def put(self, name: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=body)

    def get(self, name: str) -> tuple[bytes, str]:
        answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)
        return answer["Body"].read(), answer["ETag"]

    def names(self) -> list[str]:
        answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix)
        return sorted(o["Key"].removeprefix(self.prefix) for o in answer.get("Contents", []))

    def clean(self) -> None:
        """Delete the objects; only the demo's own are below its prefix."""
        for name in self.names():
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)


def _demo(store: _Store, closing: ExitStack) -> None:
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="csi-s3-demo-"))
    directory.chmod(0o755)  # for the pod's user
    driver = Driver(directory)
    closing.callback(driver.close)
    target = driver.kubelet_dir / POD
    target.parent.mkdir(parents=True)

    url = f"s3://{store.bucket}/{store.prefix}"
    files = _step("make sales.csv and sales.parquet with pandas", _files)
    _step(f"put them into {url}", lambda: _put(store, files, closing))
    _step("start csi-s3 node and csi-s3 mounter", lambda: driver.start(store.variables))
    answer = _step("ask the plugin over CSI: Probe", driver.probe)
    _print_detail(f"{answer['name']} {answer['vendor_version']} on node {answer['node_id']}")
    options = ["allow-delete", f"uid={UID}", f"gid={UID}", *store.options]
    _step(
        f"NodePublishVolume, mountOptions {options}",
        lambda: driver.publish("s3-pv", target, bucket=store.bucket, options=options),
    )
    _print_detail(driver.mounted_at(target))
    result = _step(
        f"start Python as uid {UID}; pandas reads and writes", lambda: _run_workload(target)
    )
    _print_detail(f"found {', '.join(result['names'])}; {result['rows']:,} rows in each")
    _print_detail("wrote by_region.parquet; wrote, read and removed scratch.txt")
    _print_detail(f"on the mount: {result['seconds']:.2f} s")
    _print_detail(
        _step("read by_region.parquet with an S3 client", lambda: _check_bucket(store, result))
    )
    _step("NodeUnpublishVolume", lambda: driver.unpublish("s3-pv", target))
    _step("stop node and mounter, delete the objects", lambda: _stop(driver, store))
    leftovers = driver.leftovers(target)
    closing.close()
    leftovers += [str(directory)] if directory.exists() else []
    if leftovers:
        raise MountError(f"the demo left behind: {', '.join(leftovers)}")
    _print(f"nothing is left: no mount, no process, no directory. {_since(began)} in total")


def _stop(driver: Driver, store: _Store) -> None:
    driver.stop()
    store.clean()


def _files() -> dict[str, bytes]:
    import pandas as pd  # noqa: PLC0415 - of the extra [demo]

    regions = ["north", "east", "south", "west"]
    frame = pd.DataFrame(
        {
            "id": range(ROWS),
            "region": [regions[i % 4] for i in range(ROWS)],
            "amount": [i * 7919 % 1000 for i in range(ROWS)],
        }
    )
    memory = io.BytesIO()
    frame.to_parquet(memory)
    return {"sales.csv": frame.to_csv(index=False).encode(), "sales.parquet": memory.getvalue()}


def _put(store: _Store, files: dict[str, bytes], closing: ExitStack) -> None:
    for name, body in files.items():
        store.put(name, body)
        closing.callback(store.clean)


def _run_workload(target: Path) -> dict[str, Any]:
    done = subprocess.run(  # noqa: S603 - a list, no shell
        [sys.executable, "-m", "csi_s3.local.workload", str(target), str(UID)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd="/",
        check=False,
    )
    if done.returncode != 0:
        raise MountError(f"the workload in {target} failed: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _check_bucket(store: _Store, result: dict[str, Any]) -> str:
    import pandas as pd  # noqa: PLC0415 - of the extra [demo]

    body, etag = store.get("by_region.parquet")
    records = pd.read_parquet(io.BytesIO(body)).to_dict("records")
    if records != result["by_region"] or "scratch.txt" in store.names():
        raise MountError(
            f"the bucket does not contain what was written: {store.names()}, {records}"
        )
    key = store.prefix + "by_region.parquet"
    return f"{key}: {len(body):,} bytes, ETag {etag}, {records}"


def _moto_store(closing: ExitStack) -> _Store:
    """An S3 server in a thread of this process."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - of the extra [demo]

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line per request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)

    def start() -> str:
        server.start()
        host, port = server.get_host_and_port()
        return f"http://{host}:{port}"

    url = _step("start an S3 server (moto)", start)
    closing.callback(server.stop)
    client = _client(
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="demo",
        aws_secret_access_key="demo-secret",  # noqa: S106 - moto's
    )
    client.create_bucket(Bucket=BUCKET)
    return _Store(
        client,
        BUCKET,
        "demo/",
        ("region us-east-1", "prefix=demo/", f"endpoint-url {url}", "force-path-style"),
        ("AWS_ACCESS_KEY_ID=demo", "AWS_SECRET_ACCESS_KEY=demo-secret"),
    )


def _real_store(arguments: argparse.Namespace) -> _Store:
    prefix = f"csi-s3-demo-{uuid4().hex}/"
    options = [f"region {arguments.region}", f"prefix={prefix}"]
    if arguments.endpoint_url is not None:
        options += [f"endpoint-url {arguments.endpoint_url}", "force-path-style"]
    client = _client(endpoint_url=arguments.endpoint_url, region_name=arguments.region)
    return _Store(client, arguments.bucket, prefix, tuple(options))


def _client(**settings: object) -> Any:  # noqa: ANN401 - botocore has no types
    from botocore.config import Config  # noqa: PLC0415 - slow to import, not needed for --help
    from botocore.session import get_session  # noqa: PLC0415

    style = {"addressing_style": "path"} if settings["endpoint_url"] else None
    return get_session().create_client("s3", config=Config(s3=style), **settings)


def _check_machine(*, real_bucket: bool) -> None:
    packages = ["pandas", "pyarrow", *([] if real_bucket else ["moto"])]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"the demo needs {', '.join(missing)}", hint="pip install 'csi-s3[demo]'"
        )
    if os.geteuid() != 0:
        raise MountError(
            "the demo needs root: the node plugin calls mount(2)",
            hint="sudo csi-s3 demo; without root, csi-s3 mount works through fusermount3",
        )


def _step(text: str, work: Callable[[], T]) -> T:
    began = time.monotonic()
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - see _client

    try:
        result = work()
    except VolumeError:
        _print(f"{_since(began)}  FAILED: {text}")
        raise
    except (BotoCoreError, ClientError) as exc:
        _print(f"{_since(began)}  FAILED: {text}")
        raise StoreRefusedError(str(exc), "check bucket, endpoint and credentials") from exc
    _print(f"{_since(began)}  {text}")
    return result


def _print_detail(text: str) -> None:
    _print(f"          {text}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _since(began: float) -> str:
    return f"{time.monotonic() - began:6.2f} s"

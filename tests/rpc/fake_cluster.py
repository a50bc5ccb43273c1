"""The other side of the wire: an API server with nodes and events that can be set to refuse."""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from csi_s3.config.api_server import ApiServer

USER = "system:serviceaccount:kube-system:s3-csi-node-sa"


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeCluster:
    """answers: to be given, in order, in place of what would be done: (status, message).

    gate: while clear, nothing is answered.
    """

    nodes: dict[str, dict] = field(default_factory=dict)
    events: dict[str, dict] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    answers: list[tuple[int, str]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    version: int = 100
    server: ApiServer | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    def put_node(self, name: str, *taints: str) -> None:
        """As another client changes it."""
        self.version += 1
        self.nodes[name] = {
            "metadata": {"name": name, "resourceVersion": str(self.version)},
            "spec": {"taints": [{"key": key, "effect": "NoExecute"} for key in taints]},
        }

    def taints(self, name: str) -> list[str]:
        return [taint["key"] for taint in self.nodes[name]["spec"]["taints"]]

    def answer(self, asked: Asked) -> tuple[int, dict]:
        self.requests.append(asked)
        self.gate.wait(60)
        if self.answers:
            status, message = self.answers.pop(0)
            return status, _status(status, message)
        if found := re.fullmatch(r"/api/v1/nodes/([^/]+)", asked.path):
            return self._node(asked, found[1])
        found = re.fullmatch(r"/api/v1/namespaces/([^/]+)/events(/[^/]+)?", asked.path)
        assert found is not None, asked.path
        return self._event(asked, found[1], (found[2] or "")[1:])

    def _node(self, asked: Asked, name: str) -> tuple[int, dict]:
        node = self.nodes.get(name)
        if node is None:
            return 404, _status(404, f'nodes "{name}" not found')
        if asked.method == "PATCH":
            assert asked.headers["content-type"] == "application/merge-patch+json"
            if asked.body["metadata"]["resourceVersion"] != node["metadata"]["resourceVersion"]:
                return 409, _status(409, "the object has been modified")
            node["spec"].update(asked.body["spec"])
            self.version += 1
            node["metadata"]["resourceVersion"] = str(self.version)
        return 200, node

    def _event(self, asked: Asked, namespace: str, name: str) -> tuple[int, dict]:
        if asked.method == "POST":
            assert asked.headers["content-type"] == "application/json"
            name = asked.body["metadata"]["name"]
            assert asked.body["metadata"]["namespace"] == namespace
            if name in self.events:
                return 409, _status(409, f'events "{name}" already exists')
            self.events[name] = dict(asked.body)
            return 201, self.events[name]
        assert asked.method == "PATCH"
        if name not in self.events:
            return 404, _status(404, f'events "{name}" not found')
        self.events[name].update(asked.body)
        return 200, self.events[name]


def _status(code: int, message: str) -> dict:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "message": message}


@contextmanager
def fake_cluster(directory: Path) -> Iterator[FakeCluster]:
    cluster = FakeCluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(raw) if raw else None
            status, answer = cluster.answer(Asked(self.command, self.path, headers, body))
            said = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # it has given up
                self.wfile.write(said)

        do_GET = do_POST = do_PATCH = _do  # noqa: N815 - the names are BaseHTTPRequestHandler's

        def log_message(self, *args: object) -> None: ...

    token = directory / "token"
    token.write_text("first\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    cluster.server = ApiServer(
        url=f"http://127.0.0.1:{server.server_address[1]}", token=token, ca=None
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield cluster
    finally:
        cluster.gate.set()
        server.shutdown()
        server.server_close()
        thread.join(10)

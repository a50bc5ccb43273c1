"""`csi-s3 node` with shorter deadlines, so that tests of them end soon.

python -m tests.rpc.run_node SECONDS [flags of csi-s3 node]

TEST_API_SERVER, TEST_API_TOKEN: a double of the cluster's API.
Without a cluster Events go to the log, as INFO lines `event` with pod, reason and text.
"""

import asyncio
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

from csi_s3.config.api_server import ApiServer
from csi_s3.config.programs import NodeConfig
from csi_s3.node import server
from csi_s3.node.node_deadlines import NodeDeadlines
from csi_s3.obs import logs


class RecordedEvents:
    async def event(self, pod, *, reason, message):
        fields = {"pod": f"{pod.namespace}/{pod.name}/{pod.uid}", "reason": reason, "text": message}
        logging.getLogger("csi_s3.tests").info("event", extra=fields)


if __name__ == "__main__":
    patience_s = float(sys.argv[1])
    deadlines = NodeDeadlines(
        mounter_s=patience_s,
        start_s=patience_s,
        usage_s=min(patience_s, 2.0),
        hello_s=min(patience_s, 2.0),
        taint_pause_s=min(patience_s, 15.0),
    )
    logs.configure("node", debug=True)
    if url := os.environ.get("TEST_API_SERVER"):
        os.environ.update(KUBERNETES_SERVICE_HOST="double", KUBERNETES_SERVICE_PORT="443")
    config = NodeConfig.from_args(sys.argv[2:])
    if url:
        token = Path(os.environ["TEST_API_TOKEN"])
        config = replace(config, api_server=ApiServer(url=url, token=token, ca=None))
    events = None if config.events else RecordedEvents()
    asyncio.run(server.serve(config, deadlines=deadlines, events=events))

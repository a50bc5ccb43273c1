"""`csi-s3 node` with shorter patience, so that tests of its deadlines end soon.

python -m tests.rpc.run_node SECONDS [flags of csi-s3 node]
"""

import asyncio
import sys

from csi_s3.config.node import NodeConfig
from csi_s3.node import mount, mounters, server, volumes
from csi_s3.obs import logs

if __name__ == "__main__":
    patience_s = float(sys.argv[1])
    volumes.MOUNTER_WAIT_S = mount.START_S = patience_s
    mount.USAGE_S = mounters.HELLO_S = min(patience_s, 2.0)
    logs.configure("node", debug=True)
    asyncio.run(server.serve(NodeConfig.from_args(sys.argv[2:])))

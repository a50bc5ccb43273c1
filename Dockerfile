# One image for all of csi-s3's programs. `csi-s3 node` runs in it as root, everything else as 65532.
#
# Needs nothing but the base image, Debian's packages and PyPI, of which the versions and hashes are those
# of uv.lock (with what builds) and scripts/uv.txt. Debian's release is part of the tag because it decides
# the name of libfuse's package; the digest is that of the list of platforms
# (docker buildx imagetools inspect python:3.13-slim-trixie); e2e/ has it in two more files.
#   docker build --build-arg SOURCE=https://github.com/OWNER/REPOSITORY -t csi-s3 .

ARG BASE=docker.io/library/python:3.13-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285

FROM ${BASE} AS tools
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev libfuse3-dev pkg-config \
 && rm -rf /var/lib/apt/lists/*
COPY scripts/uv.txt /tmp/uv.txt
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
      --require-hashes --only-binary :all: --requirement /tmp/uv.txt
ENV UV_PROJECT_ENVIRONMENT=/opt/csi-s3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
WORKDIR /src

# What uv.lock says, in a layer that changes only with it; first what builds, which the second sync uses
# and removes. Of kubernetes only the synchronous client is used; the other half is 64 MB.
FROM tools AS dependencies
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --quiet --frozen --only-group build \
 && uv sync --quiet --frozen --no-dev --no-install-project --no-build-isolation \
 && rm -rf /opt/csi-s3/lib/python3*/site-packages/kubernetes/aio

# The project, in the same places below a directory of its own: a layer of a megabyte.
FROM dependencies AS project
COPY README.md LICENSE hatch_build.py ./
COPY proto proto
COPY csi_s3 csi_s3
RUN --mount=type=cache,target=/root/.cache/uv \
    UV_PROJECT_ENVIRONMENT=/opt/build uv sync --quiet --frozen --only-group build \
 && uv build --quiet --wheel --no-build-isolation --python /opt/build/bin/python --out-dir /wheel \
 && uv pip install --quiet --no-deps --offline --python /opt/csi-s3/bin/python --prefix /project \
      /wheel/*.whl

FROM ${BASE}
ARG VERSION=0.1.0
ARG SOURCE=
LABEL org.opencontainers.image.title="csi-s3" \
      org.opencontainers.image.description="S3 buckets as directories: a Kubernetes CSI driver and a mount command" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.source="${SOURCE}"
# The base image has no bytecode of the standard library. Compiled here: a container with a read-only
# root cannot write it, and would compile at every start. Nothing is installed in a container, and no
# process changes its user: no pip, no setuid or setgid bits.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libfuse3-4 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 65532 csi-s3 \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin csi-s3 \
 && python -m compileall -q -x '/(site-packages|dist-packages|test|ensurepip|idlelib|tkinter|turtledemo|pydoc_data)/' \
      "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* \
      /usr/local/lib/python3*/ensurepip /usr/lib/python3*/ensurepip \
      /usr/lib/python3/dist-packages/pip* /usr/bin/pip* \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=dependencies /opt/csi-s3 /opt/csi-s3
COPY --from=project /project /opt/csi-s3
ENV PATH=/opt/csi-s3/bin:$PATH
USER 65532:65532
ENTRYPOINT ["csi-s3"]

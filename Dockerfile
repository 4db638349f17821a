# One file, six targets: cpu (the default of `docker build`), gpu, tensorrt, export, dev, and wheel, which they share.
#
#   docker build --target cpu -t birefnet-server:cpu .
#
# No Docker engine runs where this is developed: hadolint and checkov pass, and docker/replay.py runs the steps of every
# target in folders; docs/deploy.md says what that showed.

# Exact tags. `make image-digests` prints how to build with their digests, where the registries can be reached.
# checkov:skip=CKV_DOCKER_7: the tags are exact; checkov does not look into an ARG
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm
ARG TENSORRT_IMAGE=nvcr.io/nvidia/tensorrt:25.10-py3

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY docker/build.lock /locks/
RUN pip install --quiet --no-cache-dir --require-hashes --requirement /locks/build.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY artifact artifact
COPY matting matting
COPY model_export model_export
COPY modeling modeling
COPY plans plans
COPY protos protos
COPY server server
RUN pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# Dependencies come from a lock file with hashes: the same image from the same commit, whatever the index has since.
FROM ${PYTHON_IMAGE} AS cpu-packages
COPY docker/cpu.lock /locks/
RUN python -m venv --copies /opt/venv \
    && /opt/venv/bin/pip install --quiet --no-cache-dir --require-hashes --requirement /locks/cpu.lock
COPY --from=wheel /wheels /wheels
RUN /opt/venv/bin/pip install --quiet --no-cache-dir --no-deps --no-index --find-links /wheels birefnet-server \
    && /opt/venv/bin/pip check

FROM ${PYTHON_IMAGE} AS gpu-packages
COPY docker/gpu.lock /locks/
RUN python -m venv --copies /opt/venv \
    && /opt/venv/bin/pip install --quiet --no-cache-dir --require-hashes --requirement /locks/gpu.lock
COPY --from=wheel /wheels /wheels
RUN /opt/venv/bin/pip install --quiet --no-cache-dir --no-deps --no-index --find-links /wheels birefnet-server

FROM ${PYTHON_IMAGE} AS export-packages
RUN python -m venv --copies /opt/venv
COPY --from=wheel /wheels /wheels
# The wheel by its path: by its name, the index could have a newer one.
RUN set -- /wheels/*.whl && /opt/venv/bin/pip install --quiet --no-cache-dir "$1[export]"

# What runs: the interpreter, one virtual environment, no compiler, no root.
FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 birefnet && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp birefnet
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BIREFNET_HOST=0.0.0.0 \
    BIREFNET_DRAIN_DELAY_S=10
LABEL org.opencontainers.image.title="birefnet-server" \
      org.opencontainers.image.description="Background removal server for BiRefNet: REST and gRPC" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.1.0"
USER 10001:10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["birefnet-server"]
CMD ["serve"]

FROM runtime AS gpu
COPY --from=gpu-packages /opt/venv /opt/venv
# The CUDA libraries lie in the environment, beside onnxruntime-gpu: those of CUDA 13 in one folder, and cuDNN.
ENV LD_LIBRARY_PATH=/opt/venv/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/venv/lib/python3.11/site-packages/nvidia/cudnn/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    BIREFNET_DEVICE=cuda

# TensorRT is NVIDIA's to hand out: their image has it, with a Python of its own. The rest is as in `runtime`.
FROM ${TENSORRT_IMAGE} AS tensorrt
COPY docker/tensorrt.lock /locks/
RUN groupadd --gid 10001 birefnet && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp birefnet \
    && python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --quiet --no-cache-dir --require-hashes --requirement /locks/tensorrt.lock
COPY --from=wheel /wheels /wheels
RUN /opt/venv/bin/pip install --quiet --no-cache-dir --no-deps --no-index --find-links /wheels birefnet-server
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BIREFNET_HOST=0.0.0.0 \
    BIREFNET_DRAIN_DELAY_S=10 \
    BIREFNET_BACKEND=trt
LABEL org.opencontainers.image.title="birefnet-server" \
      org.opencontainers.image.description="Background removal server for BiRefNet, on TensorRT: REST and gRPC" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.1.0"
USER 10001:10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["birefnet-server"]
CMD ["serve"]

FROM runtime AS export
COPY --from=export-packages /opt/venv /opt/venv
HEALTHCHECK NONE
ENTRYPOINT ["birefnet-export"]
CMD ["--help"]

FROM ${PYTHON_IMAGE} AS dev
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 birefnet && useradd --uid 10001 --gid 10001 --create-home birefnet \
    && mkdir /work && chown birefnet:birefnet /work
USER 10001:10001
WORKDIR /work
COPY --chown=birefnet:birefnet . .
RUN python -m venv .venv && .venv/bin/pip install --quiet --no-cache-dir --editable '.[dev]'
HEALTHCHECK NONE
ENTRYPOINT ["/bin/bash"]

FROM runtime AS cpu
COPY --from=cpu-packages /opt/venv /opt/venv

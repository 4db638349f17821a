#!/usr/bin/env bash
# Downloads what the server and its tests need and a machine with torch, Triton and ONNX Runtime is not likely to have,
# for Python 3.12 on x86-64, into .whl/ (some 20 MB; git ignores it). To be carried to that machine: session.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(
  'annotated-types' 'fastapi>=0.115,<1' 'grpcio>=1.85.1,<2' 'grpcio-health-checking>=1.85,<2'
  'grpcio-reflection>=1.85,<2' 'httptools>=0.6,<1' 'kornia' 'kornia-rs' 'opentelemetry-api'
  'prometheus-client>=0.21,<1' 'protobuf>=7.35.1,<8' 'pytest-asyncio>=0.25,<2' 'python-multipart>=0.0.18,<1'
  'starlette' 'typing-extensions>=4.16' 'typing-inspection' 'uvicorn>=0.34,<0.60' 'uvloop>=0.21,<1'
)
mkdir -p .whl
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done
download() {
  ${PYTHON:-python3} -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" -d .whl "$@"
}
download "${packages[@]}"
# pydantic takes one version of its core only.
download 'pydantic>=2.9,<3'
core=$(unzip -p .whl/pydantic-2*.whl '*/METADATA' | sed -n 's/^Requires-Dist: \(pydantic-core==[0-9.]*\).*/\1/p')
download "$core"
du -sh .whl

#!/usr/bin/env bash
# One command from an artifact to a TensorRT plan that is built, verified, served and timed.
#
#   benchmarks/gpu/tensorrt.sh [--dry-run] [--image IMAGE] [--wheels DIR] [--batch MIN,OPT,MAX] ARTIFACT OUT
#
# ARTIFACT   exported with `birefnet-export onnx … --precision fp16-tensorrt`; the plan is added to it.
# OUT        folder for tensorrt.json, and log.txt with what all steps say.
# --image    NVIDIA's container with TensorRT; used where this machine's Python has none, and Docker is there.
# --wheels   folder with the wheels of 'birefnet-server[tensorrt]', for machines without a package index.
# --dry-run  say the commands, and run what needs no GPU: the measurement of a fake one, into OUT.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
image=nvcr.io/nvidia/tensorrt:25.10-py3
wheels="" batch="" dry=""

fail() {
    echo "tensorrt.sh: $*" >&2
    exit 2
}

while [[ ${1:-} == --* ]]; do
    case $1 in
        --dry-run) dry=yes ;;
        --image | --wheels | --batch)
            [[ $# -ge 2 ]] || fail "expected a value after $1"
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        *) fail "expected --dry-run, --image, --wheels or --batch, found $1" ;;
    esac
    shift
done
[[ $# -eq 2 ]] || fail "expected ARTIFACT and OUT, found $# arguments"
[[ -f $1/model.json || -n $dry ]] || fail "expected an artifact directory with model.json, found $1"
mkdir -p "$2"
out=$(cd "$2" && pwd)
artifact=$(realpath -m "$1")
[[ -z $wheels || -d $wheels ]] || fail "expected a folder of wheels, found $wheels"

# Say a command, and run it unless this is a dry run.
run() {
    printf '+ %s\n' "$*" >&2
    [[ -n $dry ]] || "$@" 2>&1 | tee -a "$out/log.txt"
}

in_container() {
    local command=(docker run --rm --gpus all --ipc host
        --volume "$root:/src" --volume "$artifact:/artifact" --volume "$out:/out")
    local inner=(/src/benchmarks/gpu/tensorrt.sh)
    if [[ -n $wheels ]]; then
        command+=(--volume "$(realpath "$wheels"):/wheels:ro")
        inner+=(--wheels /wheels)
    fi
    [[ -z $batch ]] || inner+=(--batch "$batch")
    run "${command[@]}" "$image" bash "${inner[@]}" /artifact /out
}

here() {
    local venv=/tmp/birefnet-tensorrt
    local install=("$venv/bin/python" -m pip install --quiet)
    [[ -z $wheels ]] || install+=(--no-index --find-links "$wheels")
    run python3 -m venv --system-site-packages "$venv" # with the container's TensorRT
    run "${install[@]}" "${root}[tensorrt]"
    cd "$root"
    local build=("$venv/bin/python" -m model_export tensorrt "$artifact")
    [[ -z $batch ]] || build+=(--batch "$batch")
    # Built and verified; out of tolerance is status 1, and nothing is measured then.
    run "${build[@]}"
    run "$venv/bin/python" -m benchmarks.plans "$artifact" --out "$out/tensorrt.json"
}

if [[ -n $dry ]]; then
    in_container
    here
    "${PYTHON:-python3}" -m benchmarks.plans --dry-run --seconds 0.1 --out "$out/tensorrt.json"
elif python3 -c 'import tensorrt' 2>/dev/null; then
    here
elif command -v docker >/dev/null; then
    in_container
else
    fail "expected a Python with TensorRT, or Docker for $image; found neither"
fi

#!/bin/sh
# Make the artifact of a checkpoint, once for all pods that share the cache, and point /cache/current of this pod at it.
#
#   MODEL_SOURCE  what `birefnet-export onnx` takes: OWNER/NAME@REVISION, or a file. A revision makes it reproducible.
#   PRECISIONS    of the graphs beside the fp32 one; fp16-tensorrt is what plans are built from (none)
#   CACHE         shared folder (/cache/shared)
#   LINK          where the server finds it: a link that is this pod's own (/cache/current)
#
# The folder is keyed by what the artifact depends on: its source, its precisions and the version that exports it. What
# depends on the card lies in it, keyed by card, TensorRT version and hash of the graph: k8s/components/tensorrt/plan.sh.
set -eu
: "${MODEL_SOURCE:?expected OWNER/NAME@REVISION}" "${CACHE:=/cache/shared}" "${LINK:=/cache/current}"
version=$(python -c 'from importlib.metadata import version; print(version("birefnet-server"))')
key=$(printf '%s\n' "$MODEL_SOURCE" "${PRECISIONS:-}" "$version" | sha256sum | cut -c1-16)
target=$CACHE/$key
mkdir -p "$CACHE"
# One pod makes it, the others wait. The lock goes with its process, however that ends.
exec 9> "$CACHE/$key.lock"
flock 9
if [ ! -f "$target/model.json" ]; then
    scratch=$CACHE/.making-$key
    rm -rf "$scratch" # of one that was killed
    trap 'rm -rf "$scratch"' EXIT
    mkdir "$scratch"
    # shellcheck disable=SC2086 # several words
    birefnet-export onnx "$MODEL_SOURCE" -o "$scratch/artifact" ${PRECISIONS:+--precision $PRECISIONS}
    mv "$scratch/artifact" "$target"
fi
ln -sfn "$target" "$LINK"
echo "artifact: $target"

#!/bin/sh
# Make the artifact of a checkpoint, once for all pods that share the cache, and point /cache/current of this pod at it.
#
#   MODEL_SOURCE  what `birefnet-export onnx` takes: OWNER/NAME@REVISION, or a file. A revision makes it reproducible.
#   CACHE         shared folder (/cache/shared)
#   LINK          where the server finds it: a link that is this pod's own (/cache/current)
#
# The folder is keyed by what the artifact depends on: its source and the version that exports it. What depends on the card
# (TensorRT plans) lies below it, keyed by card, TensorRT version and model hash, as the builder of plans names them.
set -eu
: "${MODEL_SOURCE:?expected OWNER/NAME@REVISION}" "${CACHE:=/cache/shared}" "${LINK:=/cache/current}"
version=$(python -c 'from importlib.metadata import version; print(version("birefnet-server"))')
key=$(printf '%s\n%s\n' "$MODEL_SOURCE" "$version" | sha256sum | cut -c1-16)
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
    birefnet-export onnx "$MODEL_SOURCE" -o "$scratch/artifact"
    mv "$scratch/artifact" "$target"
fi
ln -sfn "$target" "$LINK"
echo "artifact: $target"

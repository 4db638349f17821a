#!/bin/sh
# Build the TensorRT plan of this pod's artifact for this pod's GPU, unless it is there: after prepare.sh, on the GPU.
#
#   LINK  where prepare.sh has put the artifact (/cache/current)
#
# A plan lies in the artifact under the name of the GPU, the version of TensorRT and the hash of the graph, so that one
# shared folder serves a fleet of several cards.
set -eu
: "${LINK:=/cache/current}"
target=$(readlink -f "$LINK")
# One pod builds, the others wait. The lock goes with its process, however that ends.
exec 9> "$target.plan.lock"
flock 9
python - "$target" << 'PYTHON' || birefnet-export tensorrt "$target"
import sys

from artifact import ArtifactError, find_plan, open_artifact
from plans import PlanError, open_platform

try:
    platform = open_platform()
    print("plan:", find_plan(open_artifact(sys.argv[1]), platform.cuda.name, platform.version))
except (ArtifactError, PlanError) as error:
    sys.exit(str(error))
PYTHON

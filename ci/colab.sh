#!/usr/bin/env bash
# Runs ci/colab.py in the runtime image that Colab publishes. Needs docker and about 40 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."
image=us-docker.pkg.dev/colab-images/public/runtime

if [ -n "${GITHUB_ACTIONS:-}" ]; then
    # A hosted runner's disk is full of tools that are not needed here.
    sudo rm -rf /usr/local/lib/android /usr/share/dotnet /opt/ghc /opt/hostedtoolcache/CodeQL
fi
docker pull --quiet "$image"
docker run --rm --volume "$PWD:/course:ro" --entrypoint /bin/bash "$image" \
    -c 'cp -r /course /tmp/course && cd /tmp && python3 /tmp/course/ci/colab.py' 2>&1 | tee colab.log

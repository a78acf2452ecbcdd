#!/usr/bin/env bash
# Prepares a node of a Ray cluster: checks Python and the shared folder, installs the package with its pinned versions.
#
#   node_setup.sh PROJECT SHARED
#
#   PROJECT  the synced folder of this repository
#   SHARED   mount point of the file system that all nodes see and that holds the workspaces
#
# May be run again at any time: it installs only what has changed since the last time. PYTHON names the interpreter that
# Ray runs with (default: python).
set -euo pipefail

if [[ $# -ne 2 ]]; then
  echo "usage: node_setup.sh PROJECT SHARED" >&2
  exit 2
fi
project=$1
shared=$2
python=${PYTHON:-python}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "node_setup: Python 3.11 or newer is needed, but '$python' is $("$python" --version 2>&1): set PYTHON" >&2
  exit 1
fi
if [[ ! -f $project/pyproject.toml ]]; then
  echo "node_setup: $project holds no pyproject.toml: sync the repository there first" >&2
  exit 1
fi
# A shard that cannot read the workspace fails in the middle of a batch; better that the node does not join at all.
if ! probe=$(mktemp "$shared/.node-setup.XXXXXX"); then
  echo "node_setup: $shared is not a writable folder: mount the shared file system there" >&2
  exit 1
fi
rm "$probe"

wanted=$(cd "$project" && find pyproject.toml ifru_dist cluster -name '*.py' -o -name pyproject.toml | sort | xargs sha256sum)
stamp=$HOME/.ifru-dist-installed
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  echo "node_setup: up to date"
  exit 0
fi
"$python" -m pip install --disable-pip-version-check "$project"
echo "$wanted" >"$stamp"
echo "node_setup: installed"

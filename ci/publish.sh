#!/usr/bin/env bash
# Pushes the built site (_build/html) to the branch gh-pages of origin, as its one commit.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f _build/html/index.html ] || { echo "no site in _build/html: run make book first" >&2; exit 1; }
touch _build/html/.nojekyll # otherwise GitHub Pages hides the folders whose names begin with _
GIT_INDEX_FILE=$(mktemp -u)
export GIT_INDEX_FILE
trap 'rm -f "$GIT_INDEX_FILE"' EXIT
git --work-tree=_build/html add --all --force .
commit=$(git -c user.name="course bot" -c user.email="bot@users.noreply.github.com" \
    commit-tree "$(git write-tree)" -m "Site of $(git rev-parse --short HEAD)")
git push --quiet --force origin "$commit:refs/heads/gh-pages"
echo "published $(git ls-tree -r --name-only "$commit" | wc -l) files"

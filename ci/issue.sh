#!/usr/bin/env bash
# ci/issue.sh TITLE FILE: opens an issue with the end of FILE, or adds it to the open issue of that title.
# Needs gh, and GH_TOKEN with the right to write issues.
set -euo pipefail
title=$1
body=$(printf '%s\n\n```text\n%s\n```\n' "${RUN_URL:-}" "$(tail -n 60 "$2" 2>/dev/null || echo 'no log')")
number=$(gh issue list --state open --search "in:title \"$title\"" --json number,title \
    --jq "[.[] | select(.title == \"$title\")][0].number // empty")
if [ -n "$number" ]; then
    gh issue comment "$number" --body "$body"
else
    gh issue create --title "$title" --body "$body"
fi

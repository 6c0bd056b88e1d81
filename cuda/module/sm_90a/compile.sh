#!/usr/bin/env bash
# Runs a compiler, and fails where ptxas says, in a mere remark (C75xx), that it had to serialise wgmma.
set -uo pipefail
output=$("$@" 2>&1)
status=$?
if [ -n "$output" ]; then printf '%s\n' "$output" >&2; fi
if [ $status -eq 0 ] && grep -q '(C75' <<<"$output"; then exit 1; fi
exit $status

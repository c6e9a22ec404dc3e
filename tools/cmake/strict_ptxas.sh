#!/bin/sh
# Runs an nvcc command and fails if ptxas serialised wgmma (C7510, C7511, C7514, C7515), which it calls mere information
# though it costs most of the speed. Warnings of ptxas, register spills among them, are errors already (-Werror).
# The object goes, so that the next build compiles it again.
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
"$@" 2>"$messages"
status=$?
cat "$messages" >&2
if grep -q 'C751[0-5]' "$messages"; then
  echo 'error: ptxas serialised wgmma; see its message above' >&2
  previous=''
  for argument in "$@"; do
    if [ "$previous" = -o ]; then rm -f "$argument"; fi
    previous=$argument
  done
  status=1
fi
exit $status

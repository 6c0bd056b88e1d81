#!/bin/sh
# Fails when an object compiled for one instruction set defines a symbol that the linker may share with other objects: a weak
# function or variable, or a unique global. The linker keeps one copy of those for the whole program, perhaps the one full of
# AVX-512 instructions, and then every processor runs it.
#
# usage: scripts/check-symbols.sh BUILD_DIR
set -eu

build=${1:?usage: scripts/check-symbols.sh BUILD_DIR}
nm=${NM:-nm}
objects=$(find "$build" -type f -path '*native/kernels/*' \( -path '*/avx*/*' -o -path '*/amx/*' -o -path '*/neon*/*' \) -name '*.o')
if [ -z "$objects" ]; then
  echo "check-symbols: no object of an instruction set under $build; build the target tsq_kernels first" >&2
  exit 1
fi

failed=0
for object in $objects; do
  symbols=$("$nm" -C "$object")
  shared=$(printf '%s\n' "$symbols" | grep -E ' [WVuwv] ' || true)
  if [ -n "$shared" ]; then
    echo "check-symbols: $object defines symbols that other objects may share:" >&2
    printf '%s\n' "$shared" >&2
    failed=1
  fi
done
[ "$failed" -eq 0 ] && echo "check-symbols: $(printf '%s\n' "$objects" | wc -l) objects, no shared symbol"
exit "$failed"

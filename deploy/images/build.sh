#!/usr/bin/env bash
# Builds both static binaries and, from them, both images with the container
# tool given (docker by default): localhost/widget-apiserver:e2e and
# localhost/widget-controller:e2e.
set -euo pipefail
cd "$(dirname "$0")/../.."
tool=${1:-docker}
tag=${2:-e2e}
target=$(rustc -vV | sed -n 's/^host: //p')
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

RUSTFLAGS='-C target-feature=+crt-static' \
  cargo build --release --target "$target" --bin widget-apiserver --bin widget-controller
out=${CARGO_TARGET_DIR:-target}/$target/release
for name in apiserver controller; do
  if ldd "$out/widget-$name" 2>/dev/null | grep -q '=>'; then
    echo "widget-$name is not a static binary" >&2
    exit 1
  fi
  cp "$out/widget-$name" "$context/"
  "$tool" build --file "deploy/images/Containerfile.$name" --tag "localhost/widget-$name:$tag" "$context"
done

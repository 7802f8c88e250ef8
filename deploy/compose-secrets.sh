#!/bin/sh
# Makes the secrets of compose.yaml beside it, once. Containers read them as user 65532.
set -eu
cd "$(dirname "$0")"
make() {
  if [ -e "$1" ]; then return; fi
  (umask 077 && openssl rand -hex "$2" >"$1.new" && mv "$1.new" "$1")
  if [ "$(id -u)" = 0 ]; then chown 65532 "$1"; else sudo chown 65532 "$1"; fi
  echo "made deploy/$1: keep a copy"
}
make secret.key 32
make s3-access.key 10
make s3-secret.key 32

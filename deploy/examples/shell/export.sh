#!/bin/sh
# Exports an API with Sheaf: submits, watches, downloads and checks the file. Needs curl and sha256sum.
set -eu

server=${SHEAF_URL:-http://127.0.0.1:8080}
source=${SOURCE_URL:-$server/demo/page}

# ask PATH [CURL-OPTION...]: the API key comes by stdin, since other users can see a command line.
ask() {
  path=$1
  shift
  printf 'header = "Authorization: Bearer %s"\n' "${SHEAF_API_KEY:-}" |
    if [ -n "${SHEAF_API_KEY:-}" ]; then curl -sSf --config - "$@" "$server$path"; else curl -sSf "$@" "$server$path"; fi
}

# field NAME: the first member of that name in the JSON on stdin. Use jq where it is installed.
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n 1; }

body=$(printf '{"timestamp":%s,"ext_type":"XLSX","title":"Orders (shell)","user_id":"example","source_http":{"url":"%s","param":{"limit":100}}}' \
  "$(date +%s)" "$source")
key=$(ask /v1/export/http -H 'Content-Type: application/json' -d "$body" | field hash_key)

# The stream ends with the export.
detail=$(ask "/v1/export/watch?key=$key" --no-buffer | sed -n '/^event: end/{n;s/^data: //p;}')
if [ "$(printf %s "$detail" | field status)" != 2 ]; then
  echo "the export failed: $(printf %s "$detail" | field fail_reason)" >&2
  exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
curl -sSf --retry 5 -o "$folder/file" "$(printf %s "$detail" | field down_url)"
sum=$(printf %s "$detail" | sed 's/.*"sha256":"\([0-9a-f]*\)".*/\1/')
echo "$sum  $folder/file" | sha256sum -c - >/dev/null
echo "downloaded: $(wc -c <"$folder/file") bytes, checked"

# The same request by NATS.
if [ -z "${SHEAF_NATS:-}" ]; then
  echo 'skipped NATS: SHEAF_NATS is not set'
elif ! command -v nats >/dev/null; then
  echo 'skipped NATS: the nats tool is not installed'
else
  nats --server "$SHEAF_NATS" req --raw sheaf.api.default.detail "{\"key\":\"$key\"}" | field status | sed 's/^/by NATS: status /'
fi

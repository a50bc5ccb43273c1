#!/usr/bin/env bash
# The prose check of `make lint`: Vale with the word list of .vale/styles/Plain, over the files named,
# or over all that git knows or would add. .vale.ini says what is read of each kind of file.
set -euo pipefail
cd "$(dirname "$0")/.."

vale=$(.venv/bin/python -m tests.binaries vale)
if [ $# = 0 ]; then
  mapfile -d '' -t files < <(git ls-files -z --cached --others --exclude-standard)
  for file in "${files[@]}"; do
    [ ! -e "$file" ] || set -- "$@" "$file" # what is deleted and not yet committed is listed as well
  done
  [ $# -gt 0 ] || { echo "prose.sh: git lists no files here" >&2; exit 1; }
fi
exec "$vale" --config .vale.ini --output line "$@"

#!/usr/bin/env bash
# tests/blender with other versions of Blender's Python module than the one in .venv.
#   tests/bpy_versions.sh [VERSION...]     default: 4.2.* 5.0.*
# Every version gets an environment in build/bpy-VERSION, which is kept. Where the module is for the
# Python of .venv, all other packages are taken from there; 5.1 and later want Python 3.13 and get
# their own (with torch, some GB). A version whose wheel cannot be had is skipped, and that is said.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- '4.2.*' '5.0.*'
shared=$PWD/.venv/bin/python
packages=$("$shared" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# The Python that a version of the module is built for.
python_of() {
  case $1 in
    4.* | 5.0*) echo 3.11 ;;
    *) echo 3.13 ;;
  esac
}

# make_environment VERSION FOLDER: returns 1 after a line that says why there is none.
make_environment() {
  local wanted python
  wanted=$(python_of "$1")
  if "$shared" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$wanted')"; then
    python=$shared
  elif ! python=$(command -v "python$wanted") || ! "$python" -c 'import ensurepip' 2>/dev/null; then
    echo "there is no python$wanted with venv here"
    return 1
  fi
  rm -rf "$2"
  "$python" -m venv "$2" >&2 || { echo "$python cannot make an environment"; return 1; }
  if ! "$2/bin/python" -m pip install --quiet --no-deps --only-binary :all: "bpy==$1" >&2; then
    echo "pip finds no wheel of it (see above)"
    return 1
  fi
  if [ "$python" = "$shared" ]; then
    echo "import site; site.addsitedir('$packages')" >"$2/lib/python$wanted/site-packages/shared.pth"
  elif ! "$2/bin/python" -m pip install --quiet -c addon/job/requirements.lock ./cuda \
    -e '.[train,blender,test]' >&2; then
    echo "pip cannot install what the tests need (see above)"
    return 1
  fi
  touch "$2/.complete"
}

failed=0
summary=""
for version; do
  folder=build/bpy-${version%.\*}
  if [ ! -f "$folder/.complete" ] && ! reason=$(make_environment "$version" "$folder"); then
    summary+="bpy $version: SKIPPED, $reason"$'\n'
    rm -rf "$folder"
    continue
  fi
  found=$("$folder/bin/python" -c 'import bpy, numpy; print(bpy.app.version_string, "numpy", numpy.__version__)')
  echo "== bpy $found"
  if "$folder/bin/python" -m pytest -q -p no:cacheprovider tests/blender \
    --ignore tests/blender/test_real_blender.py \
    --ignore tests/blender/test_job_faults.py --ignore tests/blender/test_leaks.py; then
    summary+="bpy $found: passed"$'\n'
  else
    summary+="bpy $found: FAILED"$'\n'
    failed=1
  fi
done
printf '%s' "$summary"
exit $failed

#!/usr/bin/env bash
# The extension in the real Blender application, headless and with a window.
#   tests/real_blender.sh [CHROOT]     default $PEEL4D_BLENDER_CHROOT or /var/tmp/peel4d-trixie
# Makes the chroot with Debian's Blender when it is not there (root, about 70 s, 1.2 GB; kept),
# builds the extension and runs tests/blender/test_real_blender.py and tests/gui.
# $PEEL4D_EXTENSION: a zip that was built already.
# $PEEL4D_PICTURES: a folder for the screenshots that the window tests take.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(cd .. && pwd)/shared/tools/blender
chroot=${1:-${PEEL4D_BLENDER_CHROOT:-/var/tmp/peel4d-trixie}}
python=${PYTHON:-.venv/bin/python}

if [ ! -x "$tools/mkchroot.sh" ]; then
  echo "real_blender: the tools that install Blender are not in $tools" >&2
  exit 2
fi
[ -x "$chroot/usr/bin/blender" ] || "$tools/mkchroot.sh" trixie "$chroot"
if [ -z "${PEEL4D_EXTENSION:-}" ]; then
  "$python" tools/build_extension.py
  PEEL4D_EXTENSION=build/peel4d-$("$python" -c 'import peel4d; print(peel4d.__version__)').zip
fi
export PEEL4D_EXTENSION PEEL4D_BLENDER_CHROOT=$chroot
"$python" -m pytest ${PEEL4D_GUI_TESTS:-tests/blender/test_real_blender.py tests/gui}

#!/bin/sh
# Says which system packages are missing, in one line that can be pasted. Changes nothing.
PYTHON=${1:-python3}
missing=""
command -v g++ >/dev/null 2>&1 || missing="$missing g++"
command -v "$PYTHON" >/dev/null 2>&1 || missing="$missing python3"
"$PYTHON" -c 'import venv, ensurepip' >/dev/null 2>&1 || missing="$missing $(basename "$PYTHON")-venv"
# Blender's Python module links these even when it draws nothing.
libraries=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null)
for pair in libX11.so.6:libx11-6 libXi.so.6:libxi6 libXrender.so.1:libxrender1 \
    libXfixes.so.3:libxfixes3 libxkbcommon.so.0:libxkbcommon0 libSM.so.6:libsm6 \
    libICE.so.6:libice6 libGL.so.1:libgl1; do
  case "$libraries" in
    *"${pair%%:*}"*) ;;
    *) missing="$missing ${pair##*:}" ;;
  esac
done
if [ -n "$missing" ]; then
  echo "Peel4D needs system packages that are not here. Install them and run make again:" >&2
  echo "  sudo apt-get install -y$missing" >&2
  exit 1
fi
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$version" != "3.11" ]; then
  echo "Peel4D's checked environment is Python 3.11 (Blender's), this is $version." >&2
  echo "Use: make PYTHON=python3.11 ..." >&2
  exit 1
fi

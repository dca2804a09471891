#!/usr/bin/env bash
# Set up .venv; called by make.
#   setup_env.sh run    what training needs: torch, the OpenMMLab stack with mmcv's operators, mmext
#   setup_env.sh dev    and what the tests and the lint need
#   setup_env.sh docs   and what the pages need
#   setup_env.sh maintain   and what `make lock` and `make vulnerabilities` need
#   setup_env.sh ops    rebuild mmcv's operators, bypassing pip's cache
# STACK=name: the versions of requirements/NAME.txt, in .venv-NAME; without it those of requirements/onedl.txt, in .venv.
# Where requirements/ has a lock of the stack, pip checks the hash of each package but torch.
# WHEELHOUSE=folder: run, dev and ops from that folder alone (see tools/wheelhouse.py); .venv remembers it.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
STACK=${STACK:-onedl}
# openmmlab-torch2.6 is the extra openmmlab with another torch.
EXTRA=${STACK%%-*}
VENV=.venv
[ "$STACK" = onedl ] || VENV=.venv-$STACK
CONSTRAINTS=$VENV/constraints.txt
# Source distributions whose set-up imports torch.
BUILT_WITH_TORCH="onedl-mmcv onedl-mmdetection"
PIP="$VENV/bin/python -m pip --disable-pip-version-check"
INSTALL="$PIP install --no-build-isolation --constraint $CONSTRAINTS"

say() { printf '\n[%s] %s\n' "$(date +%T)" "$*"; }

fail() {
    printf '\nset-up failed: %s\n' "$*" >&2
    exit 1
}

# pip is configured by environment variables, so the commands below are the same with and without a wheelhouse.
use_wheelhouse() {
    WHEELHOUSE=${WHEELHOUSE:-$(cat $VENV/wheelhouse 2> /dev/null || true)}
    [ -n "$WHEELHOUSE" ] || return 0
    [ -f "$WHEELHOUSE/about.txt" ] || fail "there is no wheelhouse in $WHEELHOUSE. Collect one with \`make wheelhouse\` \
where there is a network and copy it here, or name its folder: make install-offline WHEELHOUSE=folder"
    local python=$PYTHON made_for platform glibc machine version here libc
    made_for=$(sed -n 's/^python=//p' "$WHEELHOUSE/about.txt")
    platform=$(sed -n 's/^platform=//p' "$WHEELHOUSE/about.txt")
    IFS=_ read -r _ _ glibc machine <<< "$platform"
    [ ! -x $VENV/bin/python ] || python=$VENV/bin/python
    read -r version here libc <<< "$("$python" -c \
        'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine(), platform.libc_ver()[1])')"
    [ "$version" = "$made_for" ] || fail "the wheelhouse $WHEELHOUSE is for Python $made_for, and $python is Python $version. \
Set up with PYTHON=python$made_for (after \`make clean\` where there is a $VENV), or collect another wheelhouse: \
\`make wheelhouse TARGET_PYTHON=3.N\`, from 3.10 on"
    libc=${libc#*.}
    [ "$here" = "$machine" ] && [ "${libc:-$glibc}" -ge "$glibc" ] || fail "the wheelhouse $WHEELHOUSE is for $platform, \
and this machine is $here with a C library of 2.${libc:-?}. Collect another with \
\`make wheelhouse TARGET_PLATFORM=manylinux_2_${libc:-$glibc}_$here\`"
    WHEELHOUSE=$(cd "$WHEELHOUSE" && pwd)
    say "installing from $WHEELHOUSE alone"
    ! grep -q '^torch=system' "$WHEELHOUSE/about.txt" || SYSTEM_TORCH=1
    # A URL, since pip splits the variable at spaces.
    export PIP_NO_INDEX=1 PIP_FIND_LINKS="file://${WHEELHOUSE// /%20}"
    set -E
    trap 'fail "the lines above say why. If pip misses a package, collect the wheelhouse again. If packages conflict over \
numpy 1 of the system: \`make demo\` works, but the tests need numpy 2"' ERR
}

check_stack() {
    [ -f "requirements/$STACK.txt" ] || fail "there is no stack $STACK: STACK is one of \
$(cd requirements && ls -- *.txt | sed 's/\.txt$//' | tr '\n' ' ')"
}

make_venv() {
    [ -x $VENV/bin/python ] && return
    say "making $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv $VENV
}

# The lock is for Python 3.11 and later. The system's torch may need another numpy, and a wheelhouse has files of its own.
choose_lock() {
    rm -f $VENV/locked
    [ -z "${SYSTEM_TORCH:-}$WHEELHOUSE" ] && [ -f "requirements/$STACK.run.lock" ] || return 0
    $VENV/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || return 0
    touch $VENV/locked
}

# locked LAYER NAME...     what the lock of a layer says of these packages
# locked LAYER -v NAME...  and of all others
locked() {
    local layer=$1 others=0
    shift
    [ "${1:-}" != -v ] || { others=1 && shift; }
    awk -v names=" $* " -v others=$others \
        '/^[^ ]/ {split($0, words, "=="); on = (index(names, " " words[1] " ") > 0) != others} on' "requirements/$STACK.$layer.lock"
}

install_locked() {
    $PIP install --quiet --no-deps --no-build-isolation --require-hashes --requirement <(locked "$@")
}

# torch comes last, so that the lock decides on what it needs.
install_torch() {
    cp "requirements/$STACK.txt" $CONSTRAINTS
    choose_lock
    if [ -n "${SYSTEM_TORCH:-}" ]; then
        share_system_torch
    else
        say "installing torch and the locked packages (a minute or more)"
    fi
    if [ -f $VENV/locked ]; then
        install_locked run setuptools wheel ninja psutil
        install_locked run -v $BUILT_WITH_TORCH
    fi
    $INSTALL --quiet torch numpy setuptools wheel ninja psutil
}

# A .pth file, since `venv --system-site-packages` does not see an interpreter that is itself in a virtual environment.
share_system_torch() {
    local torch minimum end
    torch=$("$PYTHON" -c 'import torch; print(torch.__version__)') ||
        fail "SYSTEM_TORCH=1, but $PYTHON cannot import torch: install it there, or run make without SYSTEM_TORCH"
    read -r minimum end <<< "$("$PYTHON" -c 'import configparser, re, sys
setup = configparser.ConfigParser()
setup.read("setup.cfg")
print(*re.search(r"(?m)^torch>=([\d.]+),<([\d.]+)$", setup["options.extras_require"][sys.argv[1]]).groups())' "$EXTRA")"
    [ "$(printf '%s\n' "$minimum" "$torch" "$end" | sort -V | tr '\n' ' ')" = "$minimum $torch $end " ] && [ "$torch" != "$end" ] ||
        fail "the stack $STACK is tested with torch $minimum or later and below $end, and the torch of $PYTHON is $torch. \
Nothing was replaced. Install another one there, choose another STACK (docs/compatibility.md), or run make without SYSTEM_TORCH \
(after \`make clean\`), which installs a torch in $VENV alone"
    say "using torch $torch of $PYTHON"
    "$PYTHON" -c 'import pathlib, site, torch; print(pathlib.Path(torch.__file__).parents[1], *site.getsitepackages(), sep="\n")' \
        > "$($VENV/bin/python -c 'import site; print(site.getsitepackages()[0])')/system_torch.pth"
    # Nothing may replace that torch, nor the generation of numpy that it was built for.
    sed -i '/^\(torch\|torchvision\|numpy\)==/d' $CONSTRAINTS
    echo "torch==$torch" >> $CONSTRAINTS
    "$PYTHON" -c 'import numpy; print(f"numpy=={numpy.__version__[0]}.*")' >> $CONSTRAINTS ||
        say "$PYTHON has no numpy: installing one"
}

# Where torch sees a GPU, mmcv's setup.py builds CUDA operators and needs an nvcc of torch's CUDA version. Without one, the
# GPU is hidden from the build: mmext's head then takes torchvision's NMS, or the CPU's.
build_environment() {
    $VENV/bin/python - << 'PY'
import re, shutil, subprocess, torch
nvcc = shutil.which('nvcc')
release = nvcc and re.search(r'release (\d+)', subprocess.run([nvcc, '--version'], capture_output=True, text=True).stdout)
fits = bool(release) and (torch.version.cuda or '').split('.')[0] == release[1]
print('MMCV_WITH_OPS=1' if torch.cuda.is_available() and fits else 'MMCV_WITH_OPS=1 FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=')
PY
}

# Through mmcv_cxx.sh, under the name of the compiler, since torch checks it. It runs only if pip has not kept the wheel.
install_mmcv() {
    say 'installing mmcv with its operators: seconds where pip has kept the wheel, else two minutes of building on two cores'
    local environment compiler=${CXX:-c++}
    environment=$(build_environment)
    COMPILER_FOLDER=$(mktemp -d)
    trap 'rm -rf "$COMPILER_FOLDER"' EXIT
    ln -s "$PWD/tools/mmcv_cxx.sh" "$COMPILER_FOLDER/${compiler##*/}"
    local mmcv=("$(grep -E '^(onedl-)?mmcv==' $CONSTRAINTS)")
    if [ -f $VENV/locked ]; then
        locked run onedl-mmcv > "$COMPILER_FOLDER/mmcv.lock"
        mmcv=(--require-hashes --requirement "$COMPILER_FOLDER/mmcv.lock")
    fi
    env $environment CXX="$COMPILER_FOLDER/${compiler##*/}" MMCV_CXX="$compiler" MMCV_PCH="$COMPILER_FOLDER" \
        $INSTALL --no-deps "$@" "${mmcv[@]}" ||
        fail 'mmcv does not build here; it needs a C++ compiler and the headers of Python (Debian: apt install g++ python3-dev)'
}

install_torchvision() {
    $VENV/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || return 0
    $VENV/bin/python -c 'import torchvision' 2> /dev/null || $INSTALL --quiet torchvision ||
        say 'no torchvision fits this torch: where mmcv has no operators for the GPU, NMS runs on the CPU'
}

# mmext with extras: from the lock of a layer where there is one.
install_mmext() {
    local layer=$1 extras=$2
    if [ ! -f $VENV/locked ]; then
        $INSTALL --quiet --editable ".[$extras]"
        return
    fi
    if [ "$layer" = run ]; then
        install_locked run onedl-mmdetection
    else
        install_locked "$layer" -v
    fi
    $INSTALL --quiet --no-deps --editable .
}

check_ops() {
    $VENV/bin/python -c 'import cv2' || fail 'OpenCV lacks libraries of the system (Debian: apt install libgl1 libglib2.0-0)'
    $VENV/bin/python -c 'import torch, mmcv._ext' || fail "mmcv has no compiled operators, or they do not fit this torch. \
Run \`make ops\`, which rebuilds them, and then repeat your command."
}

case "${1:-}" in
run | dev | ops) use_wheelhouse ;;
esac

case "${1:-}" in
run)
    check_stack
    make_venv
    [ -z "$WHEELHOUSE" ] || echo "$WHEELHOUSE" > $VENV/wheelhouse
    install_torch
    install_mmcv
    install_torchvision
    say 'installing the rest of the OpenMMLab stack and mmext (about a minute)'
    install_mmext run "$EXTRA"
    check_ops
    say 'set up: the next time this takes no time'
    ;;
dev)
    say 'installing what the tests need (about a minute)'
    install_mmext dev "$EXTRA,$EXTRA-dev,dev"
    check_ops
    ;;
docs)
    say 'installing what the pages need (seconds)'
    install_mmext docs "$EXTRA,docs"
    ;;
maintain)
    install_mmext maintain "$EXTRA,maintain"
    ;;
ops)
    [ -f $CONSTRAINTS ] || fail "there is no $VENV yet: run \`make demo\` or \`make test\`"
    install_mmcv --force-reinstall --no-cache-dir
    check_ops
    say "mmcv's operators are there"
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac

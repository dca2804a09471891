#!/usr/bin/env bash
# The C++ compiler of mmcv's build, which setup_env.sh names in CXX: $MMCV_CXX without debug information and with a
# precompiled header. Most of the time of each file goes into torch's headers, nearly always by way of
# pytorch_cpp_helper.hpp. The first file's flags compile that header into the folder $MMCV_PCH. gcc uses the result for
# the files that it fits and reads the header itself for the others.
set -u

# The flags are those of every file: ninja has one line of them.
parse() {
    source='' flags=()
    while [ $# -gt 0 ]; do
        case $1 in
        -o | -MF) shift ;;
        -c | -MMD) ;;
        *.cpp) source=$1 ;;
        *) flags+=("$1") ;;
        esac
        shift
    done
    header=${source%/pytorch/*}/common/pytorch_cpp_helper.hpp
    precompiled=$MMCV_PCH/pytorch_cpp_helper.hpp.gch
}

# Other compilers do not search the folders of -I for precompiled headers. Builds with nvcc have not been tried.
can_precompile() {
    [ -f "$header" ] && [[ " ${flags[*]} " != *' -DMMCV_WITH_CUDA '* ]] &&
        [[ $(LC_ALL=C "$MMCV_CXX" -v 2>&1) == *$'\ngcc version '* ]]
}

# Once: the files that are compiled meanwhile do not wait. The result gets its name when it is complete.
precompile() {
    local unfinished=$MMCV_PCH/unfinished
    mkdir "$unfinished" 2> /dev/null &&
        "$MMCV_CXX" "${flags[@]}" -x c++-header "$header" -o "$unfinished/gch" && mv "$unfinished/gch" "$precompiled"
}

set -- "$@" -g0
parse "$@"
if can_precompile; then
    [ -f "$precompiled" ] || precompile
    # gcc searches the first -I first. If it cannot read the precompiled header, the file is compiled without it.
    [ -f "$precompiled" ] && "$MMCV_CXX" -I"$MMCV_PCH" -Winvalid-pch "$@" && exit
fi
exec "$MMCV_CXX" "$@"

#!/usr/bin/env bash
# Starts FramePack. On the first run it makes .venv beside this script and installs requirements.txt there; it installs
# again only when the requirements, the Python or the kind of PyTorch build changed. Everything this script says, and
# all that pip says, goes to stderr: stdout belongs to the program.
set -euo pipefail

home="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd -P)"
readonly home
readonly python="$home/.venv/bin/python"
readonly cpu_index=https://download.pytorch.org/whl/cpu

say() { printf 'start.sh: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

usage() {
    cat <<'TEXT'
FramePack: a picture and a sentence become a video.

  bash start.sh                opens the page and prints its address; flags may follow, such as --port 8000
  bash start.sh PRESET         the same with other settings:
      auto       what this machine is good for; the default
      pocket     the small checkpoint, on anything
      standard   4-bit weights by bitsandbytes, xFormers, a quick start
      16gb       the same, and 8 GB of GPU memory preserved
      low-ram    the same as standard, for computers with little RAM
      share      auto, with a public address behind a new password, which is printed
  bash start.sh page --help    lists the flags
  bash start.sh generate --image photo.jpg --prompt "the camera pans left" --out video.mp4
  bash start.sh doctor         what this machine has, and what is missing
  bash start.sh download NAME  fetch a checkpoint
  bash start.sh test           install the test tools and run the tests; further words go to pytest

Any other word goes to "python -m diffusers_helper"; "bash start.sh generate --help" lists the flags.
The first run installs everything into .venv. PYTHON=/path/to/python3.11 chooses the Python it is made with.
TEXT
}

# Finding a Python: the first that starts, is 3.10 to 3.12 and can make a virtual environment.

suits() {
    "$1" -I -c 'import ensurepip, venv, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() { # prints the path; of an active virtual environment, the Python beneath it
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.10 python3 python; do
        if suits "$candidate"; then
            "$candidate" -I -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
            return
        fi
    done
    fail "needs Python 3.10, 3.11 or 3.12 with the venv module, and found none. Install one (Debian, Ubuntu:" \
        "'sudo apt install python3 python3-venv'; macOS: 'brew install python@3.12'), or name one with PYTHON=/path."
}

# What is installed is remembered as the very text it was installed from, in .venv/installed-run and installed-test.
# While an installation goes on, .venv/unfinished exists; where it is found later, .venv is made anew.

has_nvidia_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

stamp() { # stamp NAME BUILD: what .venv/installed-NAME must say
    printf '%s\n' "$2" "$("$python" -I -c 'import sys; print("Python", sys.version)' 2>/dev/null)"
    cat "$home/requirements.txt"
    [[ $1 == run ]] || cat "$home/requirements-$1.txt"
}

is_ready() { # is_ready NAME: a CUDA build serves everywhere, a CPU build as long as there is no NVIDIA GPU
    local file="$home/.venv/installed-$1" build
    [[ -f $file ]] || return
    read -r build <"$file" || return
    cmp -s "$file" <(stamp "$1" "$build") || return
    [[ $build == cuda ]] || ! has_nvidia_gpu
}

# Installing.

answers() { # answers URL: within a few seconds
    if command -v curl >/dev/null; then
        curl -fsIL --max-time 5 "$1" >/dev/null 2>&1
    else
        "$python" -I -c 'import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], method="HEAD"), timeout=5)' \
            "$1" >/dev/null 2>&1
    fi
}

pip() { "$python" -I -m pip --disable-pip-version-check "$@" >&2; }

make_environment() {
    local base
    [[ ! -e $home/.venv/unfinished ]] && suits "$python" && pip --version 2>/dev/null && return
    base="$(find_python)"
    say "making .venv with $("$base" --version 2>&1) ($base)"
    rm -rf "$home/.venv"
    mkdir "$home/.venv"
    touch "$home/.venv/unfinished"
    "$base" -I -m venv "$home/.venv"
}

torch_version() { "$python" -I -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null; }

install_torch() { # install_torch BUILD
    local torch
    torch="$(grep '^torch==' "$home/requirements.txt")"
    if [[ $1 == cuda ]]; then
        say "NVIDIA GPU found: PyTorch with CUDA comes first, 2.7 GB to download, 5 GB on disk," \
            "4 minutes at 100 Mbit/s and a few more to unpack"
        # To pip, a CPU build of the right version would be good enough.
        if [[ $(torch_version) == *+cpu ]]; then pip uninstall --yes torch; fi
    elif answers "$cpu_index/torch/"; then
        say "no NVIDIA GPU: PyTorch for the CPU comes first, 0.2 GB to download, 0.8 GB on disk," \
            "a minute at 100 Mbit/s"
        pip install "$torch" --index-url "$cpu_index" && return
        say "PyTorch's CPU index has no $torch for this machine; taking what pip finds"
    else
        say "no NVIDIA GPU, and PyTorch's CPU index does not answer: PyTorch comes first, as pip finds it," \
            "at most 2.7 GB to download, 5 GB on disk, 4 minutes at 100 Mbit/s and a few more to unpack"
    fi
    pip install "$torch"
}

install() { # install NAME BUILD
    make_environment
    touch "$home/.venv/unfinished"
    rm -f "$home/.venv/installed-"*
    install_torch "$2"
    say "now the other packages, 0.2 GB to download, 0.6 GB on disk, a minute"
    pip install -r "$home/requirements.txt"
    stamp run "$2" >"$home/.venv/installed-run"
    if [[ $1 == test ]]; then
        say "now the test tools, 0.2 GB to download, 0.5 GB on disk, half a minute"
        pip install -r "$home/requirements-test.txt"
        stamp test "$2" >"$home/.venv/installed-test"
    fi
    rm "$home/.venv/unfinished"
    say "installed"
}

wait_for_turn() { # one installation at a time; descriptor 9 is requirements.txt
    command -v flock >/dev/null || return 0
    flock -n 9 && return
    say "another start is installing; waiting for it"
    flock 9
}

make_ready() { # make_ready NAME
    local build=cpu
    is_ready "$1" && return
    if has_nvidia_gpu; then build=cuda; fi
    (
        trap 'exit 130' INT # pip ends orderly on Ctrl-C; this script must end with it
        wait_for_turn
        is_ready "$1" || install "$1" "$build"
    ) 9<"$home/requirements.txt"
}

# Presets are variables. One that is set already stays as it is, and a flag goes before all of them.

by_default() { # by_default NAME=VALUE...
    local pair name
    for pair in "$@"; do
        name=${pair%%=*}
        if [[ -z ${!name:-} ]]; then export "${pair?}"; fi
    done
}

is_downloaded() { # is_downloaded CHECKPOINT
    local part
    [[ $1 == framepack ]] && part=FramePackI2V_HY || part=FramePack_F1_I2V_HY_20250503
    [[ -f ${HF_HOME:-$home/hf_download}/hub/models--lllyasviel--$part/refs/main ]]
}

choose_checkpoint() { # a large one where there is a GPU and its files are here; the program checks the rest
    local name
    if [[ -n ${FRAMEPACK_CHECKPOINT:-} ]]; then return; fi
    if ! has_nvidia_gpu; then
        say "no NVIDIA GPU, so the pocket, which a CPU can run"
        export FRAMEPACK_CHECKPOINT=pocket
        return
    fi
    for name in framepack framepack-f1; do
        if is_downloaded "$name"; then
            say "an NVIDIA GPU and a downloaded $name, so that; what goes where is planned from free memory"
            export FRAMEPACK_CHECKPOINT=$name
            return
        fi
    done
    say "an NVIDIA GPU, but no large checkpoint yet, so the pocket; 'bash start.sh download framepack' fetches one"
    export FRAMEPACK_CHECKPOINT=pocket
}

use_less_ram_where_little() {
    local ram_gb
    ram_gb=$(awk '/^MemTotal/ { print int($2 / 1000000) }' /proc/meminfo 2>/dev/null) || return 0
    if [[ -z ${FRAMEPACK_SMALL_HOST_COPY:-} && $FRAMEPACK_CHECKPOINT != pocket ]] && ((ram_gb < 40)); then
        say "$ram_gb GB of RAM, so blocks that stay on the GPU have no copy there"
        export FRAMEPACK_SMALL_HOST_COPY=1
    fi
}

new_password() { od -An -N9 -tx1 /dev/urandom | tr -d ' \n'; }

use_preset() { # use_preset NAME
    local standard=(FRAMEPACK_USE_BNB=1 FRAMEPACK_BNB_LOAD_IN_4BIT=1 FRAMEPACK_BNB_CPU_OFFLOAD=1
        FRAMEPACK_XFORMERS_MODE=standard FRAMEPACK_USE_MEMORY_V2=1 FRAMEPACK_FAST_START=1)
    if [[ $1 == pocket ]]; then by_default FRAMEPACK_CHECKPOINT=pocket; else choose_checkpoint; fi
    case $1 in
        auto) use_less_ram_where_little ;;
        standard) by_default "${standard[@]}" ;;
        16gb) by_default "${standard[@]}" FRAMEPACK_PRESERVED_MEMORY_GB=8 ;;
        low-ram)
            by_default "${standard[@]}" FRAMEPACK_SMALL_HOST_COPY=1 \
                PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,max_split_size_mb:128
            ;;
        share)
            use_less_ram_where_little
            if [[ -z ${FRAMEPACK_AUTH:-} ]]; then
                by_default "FRAMEPACK_AUTH=framepack:$(new_password)"
                say "the page asks for user framepack, password ${FRAMEPACK_AUTH#*:}"
            fi
            by_default GRADIO_SHARE=1
            ;;
    esac
}

# The program runs in the caller's folder, so that file names mean what the caller means; but Python must not look for
# packages there, since the folder of another FramePack has one of the same name. (-P would say so from Python 3.11 on.)
readonly only_our_packages='
import runpy, sys
sys.path = [place for place in sys.path if place]'
readonly run_command="$only_our_packages
runpy.run_module('diffusers_helper', run_name='__main__', alter_sys=True)"
readonly run_page="$only_our_packages
runpy.run_path(sys.argv.pop(1), run_name='__main__')"
export PYTHONPATH="$home${PYTHONPATH:+:$PYTHONPATH}"

case "${1:-page}" in
    help | -h | --help) usage ;;
    test)
        shift
        make_ready test
        cd "$home"
        exec "$python" -m pytest "$@"
        ;;
    page | auto | pocket | standard | 16gb | low-ram | share | -*)
        preset=auto
        case "${1:-}" in
            page) shift ;;
            auto | pocket | standard | 16gb | low-ram | share)
                preset=$1
                shift
                ;;
        esac
        if [[ ${1:-} != --help && ${1:-} != --version ]]; then use_preset "$preset"; fi
        make_ready run
        exec "$python" -c "$run_page" "$home/demo_gradio.py" "$@"
        ;;
    *)
        make_ready run
        exec "$python" -c "$run_command" "$@"
        ;;
esac

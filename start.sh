#!/usr/bin/env bash
# Starts FramePack. On the first run it makes .venv beside this script and installs requirements.txt there; it installs
# again only when the requirements, the Python or the kind of PyTorch build changed. Everything this script says, and
# all that pip says, goes to stderr: stdout belongs to the program.
set -euo pipefail

home="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd -P)"
readonly home
readonly python="$home/.venv/bin/python"
readonly torch_index=https://download.pytorch.org/whl
readonly cpu_index=$torch_index/cpu

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
      quality    auto, and videos that say nothing else are decoded in quality mode
      tensorrt   auto, and the decoder compiled by TensorRT where the package torch-tensorrt is installed
      share      auto, with a public address behind a new password, which is printed
  bash start.sh page --help    lists the flags
  bash start.sh generate --image photo.jpg --prompt "the camera pans left" --out video.mp4
  bash start.sh doctor         what this machine has, and what is missing
  bash start.sh calibrate --image photo.jpg   measure what the step cache MagCache needs to know of a checkpoint
  bash start.sh download NAME  fetch a checkpoint
  bash start.sh engines list   compiled decoders that are kept; "clear" removes them
  bash start.sh lora-ema A.safetensors B.safetensors --output-file M.safetensors   average the LoRA files of one training
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

# What a preset uses and the program can do without. Each package is installed alone, without those that it asks for, so
# that no pin of requirements.txt gives way; .venv/installed-NAME remembers it. What failed, the next start tries again.

is_offline() { # is_offline FLAGS...
    [[ " $* " == *" --offline "* || ${HF_HUB_OFFLINE:-} =~ ^(1|[Tt][Rr][Uu][Ee]|[Yy][Ee][Ss]|[Oo][Nn])$ ]]
}

pin_of() { grep "^$1==" "$home/requirements-optional.txt"; }

has() { cmp -s "$home/.venv/installed-$1" <(pin_of "$1"); } # has PACKAGE

bring() { # bring PACKAGE MODULE [INDEX]; one whose module cannot be imported goes again, since others would import it
    local status=0
    (
        trap 'exit 130' INT
        wait_for_turn
        has "$1" && exit
        say "$(pin_of "$1") comes too, at most 0.1 GB to download; the program runs without it as well"
        pip install --no-deps --retries 1 --timeout 15 ${3:+--index-url "$3"} "$(pin_of "$1")" || exit 1
        if ! "$python" -I -c "import $2" >&2; then
            pip uninstall --yes "$1"
            exit 1
        fi
        pin_of "$1" >"$home/.venv/installed-$1"
    ) 9<"$home/requirements.txt" || status=$?
    ((status != 130)) || exit 130
    return "$status"
}

cuda_index() { # where PyTorch keeps packages built for the CUDA of the one that is installed
    local cuda
    cuda="$("$python" -I -c 'import torch; print(torch.version.cuda.replace(".", ""))' 2>/dev/null)" || return
    printf '%s\n' "$torch_index/cu$cuda"
}

bring_xformers() {
    local index
    has xformers && return
    index="$(cuda_index)" && bring xformers xformers.ops "$index"
}

# Presets are variables. One that is set already stays as it is, and a flag goes before all of them.

by_default() { # by_default NAME=VALUE...
    local pair name
    for pair in "$@"; do
        name=${pair%%=*}
        if [[ -z ${!name:-} ]]; then export "${pair?}"; fi
    done
}

can_use_gpu() { has_nvidia_gpu && [[ ${CUDA_VISIBLE_DEVICES-0} != "" && ${CUDA_VISIBLE_DEVICES-0} != -1 ]]; }

pytorch_sees_gpu() { # asked once, since it takes seconds
    if [[ -z ${gpu_is_seen:-} ]]; then
        gpu_is_seen=no
        if "$python" -c "$ask_pytorch" 2>/dev/null; then gpu_is_seen=yes; fi
    fi
    [[ $gpu_is_seen == yes ]]
}

choose_checkpoint() { # choose_checkpoint FLAGS...: a large one where there is a GPU and all its files are here
    local found
    if [[ -n ${FRAMEPACK_CHECKPOINT:-} ]]; then return; fi
    export FRAMEPACK_CHECKPOINT=pocket
    if ! can_use_gpu; then
        say "no NVIDIA GPU, so the pocket, which a CPU can run"
        return
    fi
    found="$("$python" -c "$find_large" "$@" 2>/dev/null)" || found=
    case $found in
        "complete "*)
            if ! pytorch_sees_gpu; then
                say "an NVIDIA GPU that PyTorch cannot use, so the pocket; most often its driver is older than 580:" \
                    "'bash start.sh doctor' says more"
                return
            fi
            FRAMEPACK_CHECKPOINT=${found#complete }
            say "an NVIDIA GPU and a downloaded $FRAMEPACK_CHECKPOINT, so that;" \
                "what goes where is planned from free memory"
            ;;
        "begun "*)
            say "an NVIDIA GPU, but ${found#begun } is not complete, so the pocket;" \
                "'bash start.sh download ${found#begun }' fetches the rest"
            ;;
        *)
            say "an NVIDIA GPU, but no large checkpoint yet, so the pocket;" \
                "'bash start.sh download framepack' fetches one"
            ;;
    esac
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

use_packages() { # use_packages FLAGS...: those that can be had
    if has bitsandbytes || { ! is_offline "$@" && bring bitsandbytes bitsandbytes; }; then
        by_default FRAMEPACK_USE_BNB=1 FRAMEPACK_BNB_LOAD_IN_4BIT=1 FRAMEPACK_BNB_CPU_OFFLOAD=1
    else
        say "bitsandbytes cannot be installed now: weights that do not fit are kept in int8 instead"
    fi
    if has xformers || { ! is_offline "$@" && bring_xformers; }; then
        by_default FRAMEPACK_XFORMERS_MODE=standard
    else
        say "xFormers cannot be installed now, or not for this PyTorch: PyTorch's own attention is used instead"
    fi
}

use_gpu_preset() { # use_gpu_preset NAME FLAGS...
    by_default FRAMEPACK_FAST_START=1
    if ! can_use_gpu || ! pytorch_sees_gpu; then
        say "no NVIDIA GPU that PyTorch can use: of $1 only the quick start is left;" \
            "4-bit weights, xFormers and all about GPU memory have no effect"
        return
    fi
    by_default FRAMEPACK_USE_MEMORY_V2=1
    use_packages "${@:2}"
    case $1 in
        16gb) by_default FRAMEPACK_PRESERVED_MEMORY_GB=8 ;;
        low-ram)
            by_default FRAMEPACK_SMALL_HOST_COPY=1 \
                PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,max_split_size_mb:128
            ;;
    esac
}

use_preset() { # use_preset NAME FLAGS...
    if [[ $1 == pocket ]]; then by_default FRAMEPACK_CHECKPOINT=pocket; else choose_checkpoint "${@:2}"; fi
    case $1 in
        auto) use_less_ram_where_little ;;
        quality)
            use_less_ram_where_little
            by_default FRAMEPACK_DECODING=quality
            ;;
        tensorrt)
            use_less_ram_where_little
            by_default FRAMEPACK_ENABLE_TENSORRT=1
            ;;
        standard | 16gb | low-ram) use_gpu_preset "$@" ;;
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
readonly ask_pytorch="$only_our_packages
import torch
sys.exit(not torch.cuda.is_available())"
readonly find_large="$only_our_packages
import argparse
from diffusers_helper import settings
from diffusers_helper.errors import UnusableCheckpoint
from diffusers_helper.models.table import CHECKPOINTS, find_checkpoint, part_folders
parser = argparse.ArgumentParser(add_help=False)
settings.add_flags(parser, settings.PAGE_KNOBS)
folder = settings.resolve(vars(parser.parse_known_args()[0])).paths.models_dir
begun = ''
for name in ('framepack', 'framepack-f1'):
    try:
        find_checkpoint(name, folder)
        sys.exit(print('complete', name))
    except UnusableCheckpoint:
        if 'transformer' in part_folders(CHECKPOINTS[name], folder):
            begun = begun or 'begun ' + name
print(begun)"
export PYTHONPATH="$home${PYTHONPATH:+:$PYTHONPATH}"

case "${1:-page}" in
    help | -h | --help) usage ;;
    test)
        shift
        make_ready test
        cd "$home"
        exec "$python" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
        ;;
    page | auto | pocket | standard | 16gb | low-ram | quality | tensorrt | share | -*)
        preset=auto
        case "${1:-}" in
            page) shift ;;
            auto | pocket | standard | 16gb | low-ram | quality | tensorrt | share)
                preset=$1
                shift
                ;;
        esac
        make_ready run
        if [[ ${1:-} != --help && ${1:-} != --version ]]; then use_preset "$preset" "$@"; fi
        exec "$python" -c "$run_page" "$home/demo_gradio.py" "$@"
        ;;
    *)
        make_ready run
        exec "$python" -c "$run_command" "$@"
        ;;
esac

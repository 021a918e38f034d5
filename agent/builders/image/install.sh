#!/bin/sh
# Runs as root while a generated image is built, with this folder mounted read-only:
#   install.sh python X.Y a Python for an accelerator's image that has none
#   install.sh base UID   the job's user, a `python`, and the packages that are listed
#   install.sh local      packages that are in the code itself, after it was copied
set -eu
here=/run/launch

fail() {
    echo "launch: $1" >&2
    exit 90
}

user() {
    [ "$1" != 0 ] || return 0
    grep -q "^[^:]*:[^:]*:$1:" /etc/passwd 2>/dev/null ||
        echo "launch:x:$1:$1:launch:/home/launch:/bin/sh" >>/etc/passwd
    grep -q "^[^:]*:[^:]*:$1:" /etc/group 2>/dev/null || echo "launch:x:$1:" >>/etc/group
    mkdir -p /home/launch/src
    chown "$1:$1" /home/launch /home/launch/src
}

secret() {
    if [ -s "/run/secrets/$1" ]; then cat "/run/secrets/$1"; fi
}

settings() {
    index=$(secret launch_index_url)
    extra=$(secret launch_extra_index_urls)
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index" PIP_INDEX_URL="$index"; fi
    if [ -n "$extra" ]; then
        export UV_EXTRA_INDEX_URL="$extra" PIP_EXTRA_INDEX_URL="$extra"
    fi
    if [ -s /run/secrets/launch_ca ]; then
        export SSL_CERT_FILE=/run/secrets/launch_ca PIP_CERT=/run/secrets/launch_ca
        export REQUESTS_CA_BUNDLE=/run/secrets/launch_ca CURL_CA_BUNDLE=/run/secrets/launch_ca
    fi
    export UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never
}

# The uv of this folder needs the agent's processor and glibc; elsewhere pip installs another.
prepare() {
    [ -n "$python" ] || fail "the base image has no Python to install packages with"
    settings
    uv=$here/uv
    if ! "$uv" --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --root-user-action ignore --target /tmp/launch-uv uv ||
            fail "the base image can run neither the agent's uv nor pip"
        uv=/tmp/launch-uv/bin/uv
    fi
    if cat $here/requirements.txt $here/local.txt | grep -q 'git+' && ! command -v git >/dev/null
    then
        fail "a requirement is fetched with git, and the base image has none: choose one that has \
it (--base-image python:3.11), or install the package from an index"
    fi
}

packages() {
    # shellcheck disable=SC2046 -- options are words without blanks
    "$uv" pip install --no-config --break-system-packages --python "$python" \
        $(cat $here/options) "$@" </dev/null
}

install() {
    prepare
    if [ "$mode" = exact ]; then set -- --no-deps "$@"; fi
    if [ -s $here/constraints.txt ]; then set -- -c $here/constraints.txt "$@"; fi
    packages "$@" || exit $?
    rm -rf /tmp/launch-uv
}

# A frozen list may name what no index has: that is left out and reported, as W&B does.
frozen() {
    prepare
    failed="" any=""
    if [ -s $here/requirements.txt ]; then
        if packages --no-deps -r $here/requirements.txt; then
            any=yes
        else
            while read -r line; do
                if packages --no-deps "$line"; then any=yes; else failed="$failed, $line"; fi
            done <$here/requirements.txt
        fi
    fi
    while read -r variant line; do
        if packages --no-deps --torch-backend "$variant" "$line"; then
            any=yes
        else
            failed="$failed, $line"
        fi
    done <$here/variants.txt
    rm -rf /tmp/launch-uv
    [ -n "$any" ] || fail "none of the frozen requirements can be installed"
    [ -z "$failed" ] ||
        echo "ERROR: Failed to install: ${failed#, }. During automated build process." >&2
}

listed() {
    if [ "$mode" = frozen ]; then
        frozen
    elif [ -s $here/pylock.toml ]; then
        install -r $here/pylock.toml
    elif [ -s $here/requirements.txt ]; then
        install -r $here/requirements.txt
    fi
}

# For an accelerator's image, as with W&B: Debian or Ubuntu, possibly without Python.
install_python() {
    [ -z "$python" ] || return 0
    command -v apt-get >/dev/null ||
        fail "the accelerator's base image has neither Python nor apt-get to install it with"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install -y --no-install-recommends "python$1" "libpython$1" python3-pip ||
        fail "Python $1 cannot be installed into the accelerator's base image"
    rm -rf /var/lib/apt/lists/*
    ln -sf "$(command -v "python$1")" /usr/local/bin/python
    ln -sf "$(command -v "python$1")" /usr/local/bin/python3
}

python=$(command -v python3 || command -v python || true)
mode=$(cat $here/mode)
case "$1" in
python) install_python "$2" ;;
base)
    user "$2"
    if [ -n "$python" ] && ! command -v python >/dev/null; then
        ln -s "$python" /usr/local/bin/python
    fi
    listed
    ;;
local)
    set --
    while IFS= read -r line; do
        case $line in
        "-e "*) set -- "$@" -e "${line#-e }" ;;
        *) set -- "$@" "$line" ;;
        esac
    done <$here/folders.txt
    install -r $here/local.txt "$@"
    ;;
esac

#!/bin/sh
# Runs as root while a generated image is built, with this folder mounted read-only:
#   install.sh base UID   the job's user, a `python`, and the packages of requirements.txt
#   install.sh local      packages that lie in the code itself, after the code is there
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

# The program that came along needs this processor and glibc; elsewhere pip brings another.
install() {
    [ -n "$python" ] || fail "the base image has no Python to install packages with"
    settings
    uv=$here/uv
    if ! "$uv" --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --root-user-action ignore --target /tmp/launch-uv uv ||
            fail "the base image can run neither the agent's uv nor pip"
        uv=/tmp/launch-uv/bin/uv
    fi
    if [ -s $here/constraints.txt ]; then set -- -c $here/constraints.txt "$@"; fi
    "$uv" pip install --no-config --break-system-packages --python "$python" "$@" || exit $?
    rm -rf /tmp/launch-uv
}

python=$(command -v python3 || command -v python || true)
case "$1" in
base)
    user "$2"
    if [ -n "$python" ] && ! command -v python >/dev/null; then
        ln -s "$python" /usr/local/bin/python
    fi
    if [ -s $here/requirements.txt ]; then
        install -r $here/requirements.txt
    fi
    ;;
local)
    shift
    install "$@"
    ;;
esac

#!/usr/bin/env bash
# Builds the container images. See `images/build.sh --help`.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: images/build.sh [web|model|autoscaler|loadtest|all]... [OPTION]... [-- ENGINE-OPTION...]

Builds these images, or by default all of them, with docker or buildah. With --tensorflow cuda the
model image is named imageserve/model-cuda, with --tensorflow none imageserve/model-onnx.

  --engine docker|buildah  builder (default: docker if it works, else buildah)
  --repository NAME        name before /web, /model and so on (default imageserve)
  --tag TAG                tag of the images (default: the version of imageserve)
  --target release|dev     dev, for web and model, is for `skaffold dev` (default release)
  --base IMAGE             base image instead of that of the Dockerfiles; pin a digest with
                           docker.io/library/python:3.12.14-slim-bookworm@sha256:...
  --tensorflow cpu|cuda|none  TensorFlow of the model image (default cpu); none: ONNX Runtime alone
  --models "NAME..."       add ImageNet weights: resnet50, mobilenet_v2 (default none)
  --ca-file FILE           certificate authorities for pip and downloads, behind a proxy with its own
                           certificates; the file does not stay in the image
  --index-url URL          Python package index instead of PyPI
  --push                   push after the build
  --save DIR               write each image to DIR/NAME.tar, to be imported on nodes without a
                           registry; it has the name there that the chart asks for
  --sbom                   with --save: write what is in each image to DIR/NAME.cdx.json (CycloneDX)
  --verify DIR             build nothing: check DIR/NAME.tar against DIR/NAME.cdx.json, and where it
                           comes from against this checkout

The times in image and layers are SOURCE_DATE_EPOCH, by default that of the last commit to locks/ or
images/. buildah gives the same layers for the same inputs; see docs/images.md for docker.

Arguments after -- go to the builder unchanged, such as --no-cache, or for buildah in a container
--isolation chroot --network host.
END
}

fail() {
    echo "build.sh: $1" >&2
    exit 2
}

every=(web model autoscaler loadtest)
images=()
engine='' repository=imageserve tag='' target=release tensorflow=cpu models='' ca_file='' push=''
save='' sbom='' verify=''
arguments=() more=()
while [ $# -gt 0 ]; do
    case "$1" in
        --push) push=yes && shift && continue ;;
        --sbom) sbom=yes && shift && continue ;;
        --help | -h) usage && exit ;;
        web | model | autoscaler | loadtest) images+=("$1") && shift && continue ;;
        all) images+=("${every[@]}") && shift && continue ;;
        --) shift && more=("$@") && break ;;
    esac
    [ $# -ge 2 ] || fail "$1 is not known or lacks its value; --help lists the options"
    case "$1" in
        --engine) engine=$2 ;;
        --repository) repository=$2 ;;
        --tag) tag=$2 ;;
        --target) target=$2 ;;
        --base)
            arguments+=(--build-arg "BASE=$2")
            [[ $2 != *@* ]] || arguments+=(--label "org.opencontainers.image.base.digest=${2#*@}")
            ;;
        --tensorflow) tensorflow=$2 ;;
        --models) models=$2 ;;
        --ca-file) ca_file=$2 ;;
        --save) save=$2 ;;
        --verify) verify=$2 ;;
        --index-url) arguments+=(--build-arg "PIP_INDEX_URL=$2") ;;
        *) fail "$1 is not known; --help lists the options" ;;
    esac
    shift 2
done

[ ${#images[@]} -gt 0 ] || images=("${every[@]}")
python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python
if [ -n "$verify" ]; then
    exec "$python" images/sbom.py verify "${images[@]/#/$verify/}"
fi

if [ -z "$engine" ]; then
    if docker version >/dev/null 2>&1; then engine=docker; else engine=buildah; fi
fi
case "$engine" in
    docker) build=(env DOCKER_BUILDKIT=1 docker build) ;;
    buildah) build=(buildah bud --layers) ;;
    *) fail "--engine must be docker or buildah" ;;
esac
command -v "$engine" >/dev/null || fail "$engine is not installed"

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/imageserve/__init__.py)
# Not that of each commit: the layers of the packages stay the same when only code changes.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct -- locks images 2>/dev/null || true)}
epoch=${epoch:-315532800}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || revision+=-dirty
arguments+=(
    --build-arg "VERSION=$version"
    --build-arg "REVISION=$revision"
    --build-arg "CREATED=$(date -u --date "@$epoch" +%Y-%m-%dT%H:%M:%SZ)"
)
arguments+=(--build-arg "SOURCE_DATE_EPOCH=$epoch")
[ "$engine" = docker ] || arguments+=(--timestamp "$epoch")
if [ -n "$ca_file" ]; then
    [ -r "$ca_file" ] || fail "there is no file $ca_file"
    arguments+=(--secret "id=ca,src=$ca_file" --build-arg PIP_CERT=/run/secrets/ca)
fi

# buildah calls an image without a registry localhost/NAME, where docker and containerd, and so the
# pods of the chart, mean docker.io/NAME.
saved() {
    local file=$1 full=$2
    if [ "$engine" = docker ]; then
        docker save --output "$file" "$full"
        return
    fi
    rm -f "$file" # buildah adds to no archive.
    case "${full%%/*}" in
        *.* | *:* | localhost) buildah push "$full" "docker-archive:$file:$full" ;;
        *) buildah push "localhost/$full" "docker-archive:$file:docker.io/$full" ;;
    esac
}
[ -z "$sbom" ] || [ -n "$save" ] || fail "--sbom writes beside the files of --save: add --save DIR"
if [ -n "$save" ]; then
    [ -d "$save" ] || fail "there is no folder $save"
fi

for name in "${images[@]}"; do
    own=()
    lock=$name
    full=$repository/$name
    if [ "$name" = model ]; then
        own=(--build-arg "TENSORFLOW=$tensorflow" --build-arg "MODELS=$models")
        case "$tensorflow" in
            cpu) lock=worker ;;
            none) full+=-onnx && lock=worker-onnx ;;
            *) full+=-$tensorflow && lock=worker-$tensorflow ;;
        esac
    fi
    [ -r "locks/$lock.txt" ] || fail "--tensorflow must be cpu, cuda or none"
    own+=(--label "imageserve.lock=$(sha256sum "locks/$lock.txt" | sed 's/ .*//') locks/$lock.txt")
    full+=:${tag:-$version}
    "${build[@]}" --file "images/$name/Dockerfile" --target "$target" --tag "$full" \
        "${arguments[@]}" ${own[@]+"${own[@]}"} ${more[@]+"${more[@]}"} .
    [ -z "$save" ] || saved "$save/$name.tar" "$full"
    [ -z "$sbom" ] || "$python" images/sbom.py write "$save/$name"
    [ -z "$push" ] || "$engine" push "$full"
done

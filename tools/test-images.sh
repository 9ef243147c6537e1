#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Gets the images of the integration tests: those named in FIREDRILL_TEST_IMAGES, and the small application that the
# HTTP checks ask. Our own are built from Debian's packages, once; any other is taken as it is here, or pulled.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

own=(app)
for image in ${FIREDRILL_TEST_IMAGES:?}; do
    case $image in
    firedrill-test/postgres:*) own+=("${image##*:}") ;;
    *)
        docker image inspect "$image" >/dev/null 2>&1 || docker pull "$image" || {
            echo "test-images: $image is not here and cannot be pulled" >&2
            exit 1
        }
        ;;
    esac
done
tests/images/build.sh "${own[@]}"

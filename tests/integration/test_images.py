# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images that the tests run on are like the official ones, as far as the tests rely on it."""

from __future__ import annotations

import subprocess

import pytest
from servers import ROOT


@pytest.mark.integration
@pytest.mark.slow
def test_an_image_of_the_tests_keeps_the_contract_of_the_official_one(image: str) -> None:
    verifier = str(ROOT / "tests" / "images" / "verify.sh")
    done = subprocess.run([verifier, image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

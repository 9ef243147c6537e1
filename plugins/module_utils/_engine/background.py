# Copyright: Firedrill contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The background: what is read and hashed here while a far end is at work."""

from __future__ import annotations

import threading
from typing import Callable, Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """A call that begins at once, in a thread of its own.

    Nobody waits for it but who asks for its result: a run that is ended must not read a large file to its end before.
    """

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - result() raises it
            self._error = error

    def result(self) -> Result:
        """What the call returns, or raises."""
        self._thread.join()
        if self._error:
            raise self._error
        return self._results[0]

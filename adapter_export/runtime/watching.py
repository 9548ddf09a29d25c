"""Following a bundle's folder: adapters that `add` replaces while it is open are loaded anew."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from adapter_export.errors import AdapterExportError, InputError
from adapter_export.runtime.process import Home

if TYPE_CHECKING:
    from adapter_export.runtime.session import AdapterSession

SECONDS = 1.0
_log = logging.getLogger(__name__)


class BundleWatch:
    """A thread that looks at the bundle's manifest every so many seconds, until `stop`.

        with AdapterSession("bundle") as session, BundleWatch(session):
            ...

    An adapter in memory whose file the manifest now lists with other bytes is loaded again: runs that begin afterwards
    get it, those under way finish with the old one. Adapters added are there for whoever asks, as without a watch. One
    that is gone from the manifest, or does not fit, stays as it is; `on_error` is told, from the thread. What
    `on_error` raises is logged, and the watch goes on.
    """

    def __init__(
        self,
        session: AdapterSession,
        *,
        seconds: float = SECONDS,
        on_error: Callable[[AdapterExportError], None] = lambda _: None,
    ) -> None:
        """Raises InputError where `seconds` is not above 0, and for a bundle whose adapter is in the graph."""
        self._home = Home(f"BundleWatch of {session.bundle}")
        if not seconds > 0:
            raise InputError(f"watch: expected seconds above 0, found {seconds}")
        self._session, self._seconds, self._on_error = session, seconds, on_error
        self._known = {info.name: info.sha256 for info in session.reread().adapters}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="adapter-export-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; a load under way is finished. In a fork of the process there is nothing to end."""
        if not self._home.here:
            return
        self._stopped.set()
        if self._thread is not threading.current_thread():  # `on_error` may stop it
            self._thread.join()

    def look(self) -> None:
        """Look once, now."""
        self._home.check()
        try:
            now = {info.name: info.sha256 for info in self._session.reread().adapters}
            loaded = self._session.loaded
        except AdapterExportError as error:
            self._tell(error)
            return
        for name, digest in now.items():
            if name in loaded and self._known.get(name) != digest:
                try:
                    self._session.load(name)
                except AdapterExportError as error:
                    self._tell(error)
                    continue
            self._known[name] = digest

    def _tell(self, error: AdapterExportError) -> None:
        try:
            self._on_error(error)
        except BaseException as raised:
            # In the watch's own thread SystemExit ends nothing but the watch.
            if not isinstance(raised, Exception) and self._thread is not threading.current_thread():
                raise
            _log.exception("watch of %s: on_error raised", self._session.bundle)

    def _follow(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self.look()
            except Exception:  # a mistake of ours: the next look may go well
                _log.exception("watch of %s: it goes on", self._session.bundle)

    def __enter__(self) -> BundleWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

"""Watches the folder of an open bundle, and loads adapters again that `add` has replaced."""

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
    """A thread that reads the bundle's manifest at a fixed interval, until `stop` is called.

        with AdapterSession("bundle") as session, BundleWatch(session):
            ...

    When the manifest lists another sha256 for an adapter in memory, the adapter is loaded again. Runs that begin later
    use the new adapter; runs that have begun finish with the old one. An adapter that was added to the bundle is loaded
    when it is first used, as without a watch. An adapter that was removed from the manifest, or whose new file does not
    fit, stays in memory unchanged.
    """

    def __init__(
        self,
        session: AdapterSession,
        *,
        seconds: float = SECONDS,
        on_error: Callable[[AdapterExportError], None] = lambda _: None,
    ) -> None:
        """Starts the thread.

        Args:
            session: The session whose adapters are loaded again.
            seconds: Interval between two reads of the manifest.
            on_error: Called in the thread with each error, for example of an adapter that does not fit. Exceptions
                that it raises are logged, and the watch continues.

        Raises:
            InputError: `seconds` is not above 0, or the bundle's adapter is in the graph (modes merged and embedded).
        """
        self._home = Home(f"BundleWatch of {session.bundle}")
        if not seconds > 0:
            raise InputError(f"watch: expected seconds above 0, found {seconds}")
        self._session, self._seconds, self._on_error = session, seconds, on_error
        self._known = {info.name: info.sha256 for info in session.reread().adapters}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="adapter-export-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after a load that has begun. In a fork of the process this does nothing."""
        if not self._home.here:
            return
        self._stopped.set()
        if self._thread is not threading.current_thread():  # `on_error` may call this
            self._thread.join()

    def look(self) -> None:
        """Reads the manifest now, and loads again the adapters that have changed."""
        self._home.check()
        try:
            now = {info.name: info.sha256 for info in self._session.reread().adapters}
            loaded = self._session.loaded
        except AdapterExportError as error:
            self._report(error)
            return
        for name, digest in now.items():
            if name in loaded and self._known.get(name) != digest:
                try:
                    self._session.load(name)
                except AdapterExportError as error:
                    self._report(error)
                    continue
            self._known[name] = digest

    def _report(self, error: AdapterExportError) -> None:
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
            except Exception:  # a bug; the next round may succeed
                _log.exception("watch of %s: it goes on", self._session.bundle)

    def __enter__(self) -> BundleWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

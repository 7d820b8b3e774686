"""The server under the page: what must be set before Gradio is imported, opening, closing."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import inspect
import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..errors import InvalidSetting
from ..interrupt import StopSignal
from ..proxies import no_proxies, require_usable_proxies
from ..settings import PAGE_KNOBS, PageOptions

if TYPE_CHECKING:
    from gradio import Blocks
    from starlette.middleware import Middleware

    from .app_context import AppContext
    from .guard import AllowedNames

log = logging.getLogger(__name__)

PORTS = range(7860, 7960)
THIS_MACHINE_NAMES = "localhost,127.0.0.1,::1"
LOOK_SECONDS = 0.2


def uploads_folder(output_dir: Path) -> Path:
    """Where Gradio keeps what was uploaded."""
    return output_dir.absolute() / ".framepack" / "uploads"


def upload_address(path: str) -> str:
    """Where Gradio serves an upload, seen from the page."""
    return f"gradio_api/file={quote(path)}"


def prepare_gradio(options: PageOptions, output_dir: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what Gradio reads from the environment when it is imported; nothing else there speaks to it.

    Its own variables would otherwise change what the page does behind its settings: open folders, start workers that
    no guard stands before, report to its makers. The program's own requests to this machine need no proxy.
    """
    known = {knob.variable for knob in PAGE_KNOBS}
    for name in [name for name in environment if name.startswith("GRADIO_")]:
        if name not in known and name not in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
            log.warning("%s has no effect on this page", name)
        del environment[name]
    environment["GRADIO_ANALYTICS_ENABLED"] = "False"
    environment["GRADIO_TEMP_DIR"] = str(uploads_folder(output_dir))
    environment["HF_HUB_DISABLE_TELEMETRY"] = environment["HF_HUB_OFFLINE"] = "1"
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, (environment.get(name), THIS_MACHINE_NAMES, options.server)))
    if not (options.share or options.root_path):
        environment["FORWARDED_ALLOW_IPS"] = ""  # without a proxy in front, nobody may say who asks but the connection
    environment.pop("FRAMEPACK_AUTH", None)


def import_gradio() -> None:
    """Import Gradio without what it does for editors, and whatever proxies are named.

    For each component it parses its own source and writes type stubs beside it, at every start anew: half of the
    import's time. It leaves that out for a component that has no source file.
    """

    def no_file(anything: object) -> str:
        raise OSError(f"not needed: {anything}")

    file_of = inspect.getfile
    try:
        setattr(inspect, "getfile", no_file)  # noqa: B010
        with no_proxies():
            importlib.import_module("gradio")
    finally:
        setattr(inspect, "getfile", file_of)  # noqa: B010


def empty_uploads(output_dir: Path) -> None:
    """Remove what earlier starts left among the uploads. Raises OutputFailed when the folder cannot be made."""
    from ..media.files import make_output_folder

    folder = uploads_folder(output_dir)
    shutil.rmtree(folder, ignore_errors=True)
    make_output_folder(folder)


def warnings(options: PageOptions) -> tuple[str, ...]:
    """Keys of texts about how the page is reached, for the page itself."""
    keys = []
    if options.reachable_from_elsewhere and options.auth is None:
        keys.append("page.warning_open")
    if options.mcp and not mcp_is_installed():
        keys.append("page.warning_mcp")
    return tuple(keys)


def mcp_is_installed() -> bool:
    """Whether the optional package that serves tools over MCP is there."""
    return importlib.util.find_spec("mcp") is not None


def free_port(server: str, wanted: int | None) -> int:
    """A port that nobody listens on. Raises InvalidSetting for a wanted one that is taken, or a foreign address."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    for port in [wanted] if wanted else PORTS:
        try:
            socket.create_server((server, port), family=family).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror or str(error)
                raise InvalidSetting(f"--server {server}, port {port}: {reason}; choose another") from None
        else:
            return port
    if wanted:
        raise InvalidSetting(f"--port {wanted}: is in use already; choose another, or leave it out")
    raise InvalidSetting(f"--port: all from {PORTS[0]} to {PORTS[-1]} are in use; name another")


class PageServer:
    """The page on its port."""

    def __init__(self, context: AppContext, blocks: Blocks, looks: Mapping[str, Any]) -> None:
        """``looks``: what the page itself asks of Gradio's ``launch``."""
        self._context, self._options = context, context.settings.page
        self._blocks, self._looks = blocks, looks
        self.addresses: list[str] = []

    def open(self) -> None:
        """Listen; ``addresses`` then says where. Raises InvalidSetting."""
        from .guard import AllowedNames

        names = AllowedNames.of(self._options)
        with _reaching_no_further_than_needed(self._options):
            local, shared = self._launch(names)
        self.addresses = [address for address in (local, shared) if address]
        if shared:
            names.add_public(shared)

    def _launch(self, names: AllowedNames) -> tuple[str, str | None]:
        """Start the server; its address on this machine, and the public one where that was asked for."""
        from .routes import own_routes

        options = self._options
        mcp = options.mcp and mcp_is_installed()
        _, local, shared = self._blocks.launch(
            **self._looks,
            prevent_thread_lock=True,
            quiet=True,
            inline=False,
            inbrowser=options.inbrowser,
            share=options.share,
            server_name=f"[{options.server}]" if ":" in options.server else options.server,
            server_port=free_port(options.server, options.port),
            auth=options.auth,
            root_path=options.root_path,
            max_file_size=options.max_upload_size,
            mcp_server=mcp,
            ssr_mode=False,
            pwa=False,
            num_workers=0,
            app_kwargs={"routes": own_routes(self._context), "middleware": self._layers(names, mcp)},
        )
        return local, shared

    def _layers(self, names: AllowedNames, mcp: bool) -> list[Middleware]:
        """What every request passes, the outermost first."""
        from starlette.middleware import Middleware

        from . import guard, uploads

        most_bytes, output_dir = self._options.max_upload_size, self._context.settings.paths.output_dir
        return [
            Middleware(guard.SafeHeaders),
            Middleware(guard.KnownHosts, names=names),
            Middleware(guard.NeededRoutes, mcp=mcp),
            Middleware(guard.LoginRequired),
            Middleware(guard.SlowLogins),
            Middleware(uploads.Bodies, max_upload_bytes=most_bytes, output_dir=output_dir),
        ]

    def wait(self, stop: StopSignal) -> bool:
        """Until a wish to stop; False when the server has ended by itself before."""
        while not stop.received and self._blocks.server.thread.is_alive():
            time.sleep(LOOK_SECONDS)
        return stop.received

    def close(self) -> None:
        """Stop listening; open connections are cut."""
        self._blocks.close(verbose=False)


def _reaching_no_further_than_needed(options: PageOptions) -> AbstractContextManager[None]:
    """A start asks this machine only, through no proxy, but for a public address. Raises InvalidSetting."""
    import httpx

    if not options.share:
        return no_proxies()
    require_usable_proxies(httpx.Client)
    return nullcontext()

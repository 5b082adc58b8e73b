"""A JupyterLab of its own, with nothing of the user's settings, and a page of Debian's or anyone's Chromium on it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
TOKEN = "colorlab-browser-test"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
# .ci/run sets this: there, a missing browser is a failure and not a reason to skip.
REQUIRED = "COLORLAB_BROWSER_REQUIRED"
CURRENT = "window.jupyterapp.shell.currentWidget"


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab on a folder of its own."""

    url: str
    folder: Path


@dataclass(frozen=True)
class NotebookPage:
    """A notebook that is open in the browser, with an idle kernel."""

    page: Any
    errors: list[str]

    def run_all(self, timeout_s: float = 240) -> None:
        """Run every cell and wait for the last one."""
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        # An execution count appears when a cell is done; a failed one ends the run and leaves the rest without.
        self.page.wait_for_function(
            f"""() => {{
                const cells = {CURRENT}.content.widgets.filter(
                    cell => cell.model.type === 'code' && cell.model.sharedModel.source.trim());
                const failed = cells.some(cell => cell.model.outputs.toJSON().some(o => o.output_type === 'error'));
                return failed || ({CURRENT}.sessionContext.session.kernel.status === 'idle'
                    && cells.every(cell => cell.model.executionCount !== null && cell.promptNode
                        && !cell.promptNode.innerText.includes('*')));
            }}""",
            timeout=timeout_s * 1000,
        )

    def outputs(self) -> list[dict[str, Any]]:
        """Return the outputs of all code cells as the notebook file would hold them."""
        script = f"""() => {CURRENT}.content.widgets.filter(cell => cell.model.type === 'code')
            .flatMap(cell => cell.model.outputs.toJSON())"""
        found: list[dict[str, Any]] = self.page.evaluate(script)
        return found


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Start JupyterLab on copies of the notebooks, their outputs cleared."""
    root = tmp_path_factory.mktemp("lab")
    folder = root / "notebooks"
    folder.mkdir()
    for source in NOTEBOOKS.glob("*.ipynb"):
        notebook = json.loads(source.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
        (folder / source.name).write_text(json.dumps(notebook), encoding="utf-8")
    settings = root / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "doNotDisturbMode": True, "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    port = _free_port()
    flags = [
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}", "--expose-app-in-browser",
        "--LabApp.extension_manager=readonly", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with _serving(["jupyter", "lab", *flags], root, f"{url}/api?token={TOKEN}"):
        yield Lab(url, folder)


@pytest.fixture
def browser() -> Iterator[Any]:
    """Start a browser that knows nothing yet; the context of its pages is what a test gets."""
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        assert not os.environ.get(REQUIRED), f"{REQUIRED} is set, but there is none of {', '.join(BROWSERS)}"
        pytest.skip("no Chromium or Chrome is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(BROWSER_FLAGS))
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        # A busy machine takes its time; what never comes is found all the same.
        context.set_default_timeout(120_000)
        yield context
        context.close()
        browser.close()


@pytest.fixture
def open_notebook(lab: Lab, browser: Any) -> Iterator[Callable[[str], NotebookPage]]:
    """Return a function that opens a notebook of `lab` in a fresh page."""

    def opened(name: str) -> NotebookPage:
        notebook = _open_page(browser, f"{lab.url}/lab/tree/{name}?token={TOKEN}&reset")
        notebook.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
        notebook.page.wait_for_function(
            f"() => {CURRENT}?.sessionContext?.session?.kernel?.status === 'idle'", timeout=120_000
        )
        return notebook

    yield opened
    for page in browser.pages:
        page.close()
    _end_kernels(lab.url)


@pytest.fixture
def open_app(browser: Any, tmp_path: Path) -> Iterator[Callable[[Path], NotebookPage]]:
    """Return a function that opens a notebook as an app, which voila makes of it: all cells run, no code seen."""
    pytest.importorskip("voila")
    with ExitStack() as stack:

        def opened(notebook: Path) -> NotebookPage:
            port = _free_port()
            url = f"http://127.0.0.1:{port}"
            flags = ["--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}"]
            # Its first page would run the notebook; any other is answered, too, if only by a refusal.
            stack.enter_context(_serving(["voila", str(notebook), *flags], tmp_path, f"{url}/voila/static/none"))
            return _open_page(browser, url)

        yield opened


def _open_page(browser: Any, url: str) -> NotebookPage:
    """Open a page, and take note of its errors."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    return NotebookPage(page, errors)


@contextmanager
def _serving(command: Sequence[str], root: Path, url: str) -> Iterator[None]:
    """Run a server of Jupyter, `python -m` its command, with nothing of the user's settings, until the end."""
    own = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }  # fmt: skip
    environment = os.environ | {name: str(root / value) for name, value in own.items()}
    log = (root / "server.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_for_server(server, url, root / "server.log")
        yield
    finally:
        # The group: kernels are children of the server.
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        log.close()


def _end_kernels(url: str) -> None:
    """End every kernel of the server: what a test has left running would slow down the next one."""
    with urllib.request.urlopen(f"{url}/api/kernels?token={TOKEN}", timeout=60) as answer:
        kernels = json.load(answer)
    for kernel in kernels:
        request = urllib.request.Request(f"{url}/api/kernels/{kernel['id']}?token={TOKEN}", method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()


def _free_port() -> int:
    """Ask the system for a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_server(server: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float = 120) -> None:
    """Wait until the server answers anything; show its log if it does not."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return  # it refuses, so it is there
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.3)
    pytest.fail(f"The server did not start:\n{log.read_text(errors='replace')[-3000:]}")

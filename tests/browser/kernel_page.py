"""A notebook page from which its kernel can be asked: what the tests of painter and Studio share."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CURRENT = "window.jupyterapp.shell.currentWidget"
SLOW_KERNEL = """
import time
from ipywidgets import Widget
quick = Widget._handle_msg
Widget._handle_msg = lambda self, message: (time.sleep(0.2), quick(self, message))[1]
"""
"""Code after which the kernel takes 200 ms more for each message of a widget."""

QUICK_KERNEL = "Widget._handle_msg = quick"
"""Code that takes this back."""


def write_cells(folder: Path, name: str, sources: Sequence[str]) -> str:
    """Write a notebook of code cells, and return its name."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{index}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for index, source in enumerate(sources)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (folder / name).write_text(json.dumps(notebook), encoding="utf-8")
    return name


@dataclass
class KernelPage:
    """An open notebook."""

    notebook: Any

    @property
    def page(self) -> Any:
        """Return Playwright's page."""
        return self.notebook.page

    def kernel(self, code: str) -> Any:
        """Run code in the kernel and return the JSON that it prints last; None if it prints nothing."""
        text = self.page.evaluate(
            f"""async (code) => {{
                const kernel = {CURRENT}.sessionContext.session.kernel;
                const future = kernel.requestExecute({{code, store_history: false}});
                let printed = '';
                future.onIOPub = message => {{
                    if (message.header.msg_type === 'stream') printed += message.content.text;
                    if (message.header.msg_type === 'error') printed += message.content.traceback.join('\\n');
                }};
                // Held by the window: a promise that nothing holds may be collected before it is kept.
                const asked = window.askedOfKernel ??= new Set();
                asked.add(future);
                await future.done;
                asked.delete(future);
                return printed;
            }}""",
            code,
        )
        return json.loads(text.strip().splitlines()[-1]) if text.strip() else None

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the kernel."""
        return self.kernel(f"print(json.dumps({expression}))")

    def wait_until(self, is_true: Callable[[], bool], what: str, timeout_s: float = 240) -> None:
        """Look again and again, for a slow machine; fail with what was awaited."""
        deadline = time.monotonic() + timeout_s
        while not is_true():
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
            self.page.wait_for_timeout(50)

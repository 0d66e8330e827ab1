"""A headless Chromium, driven over its DevTools pipe: opens pages from disk, measures them, takes pictures of them.

It takes a Chromium that is installed (Debian: ``apt-get install chromium``) and no package beside it.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
_OPTIONS += [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
_OPTIONS += ["--remote-debugging-pipe"]


def find_chromium() -> str | None:
    """Returns the path of an installed Chromium, or ``None``."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Chromium:
    """A browser with one page, closed at the end of a ``with`` block.

    Args:
        path: Of the program.
        seconds: How long to wait for an answer before giving up.

    Attributes:
        complaints: What the page on show complained of: exceptions, errors on the console, failed requests.
        requests: What the page on show asked for beside itself.
    """

    def __init__(self, path: str, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read_by_browser, self._to = os.pipe()
        self._from, written_by_browser = os.pipe()

        def hand_over() -> None:
            # The browser reads from descriptor 3 and writes to 4; neither may be closed by taking the other's place.
            ends = [os.dup(read_by_browser), os.dup(written_by_browser)]
            while any(end in (3, 4) for end in ends):
                ends = [os.dup(end) for end in ends]
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [path, *_OPTIONS, f"--user-data-dir={self._profile.name}", "about:blank"],
            preexec_fn=hand_over,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_by_browser)
        os.close(written_by_browser)
        self._number, self._received = 0, b""
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(self._seconds)
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def open(
        self, page: Path, width: int, height: int = 900, dark: bool = False, scale: float = 1.0, media: str = "screen"
    ) -> None:
        """Shows a page in a window of so many pixels, and waits until it is loaded.

        Args:
            page: The file.
            width: Of the window.
            height: Of the window.
            dark: Whether the reader prefers dark pages.
            scale: Pixels of a picture for each of the window.
            media: ``screen``, or ``print`` for the page as it is laid out on paper.
        """
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", media=media, features=scheme)
        self.complaints, self.requests, self._loaded = [], [], False
        failed = self._call("Page.navigate", url=page.absolute().as_uri()).get("errorText")
        if failed:
            raise RuntimeError(f"{page}: {failed}")
        until = time.monotonic() + self._seconds
        while not self._loaded:
            self._take(until)

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression in the page.

        Raises:
            RuntimeError: It throws.
        """
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "it throws"))
        return answer["result"].get("value")

    def screenshot(self, path: Path, height: int | None = None, top: int = 0) -> None:
        """Writes a PNG of the page, from ``top`` on as long as it is, or ``height`` pixels of it."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        left = size["height"] - top if height is None else min(height, size["height"] - top)
        clip = {"x": 0, "y": top, "width": size["width"], "height": left, "scale": 1}
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path: Path) -> None:
        """Writes the page as it is printed, on A4."""
        answer = self._call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + self._seconds
        while True:
            answer = self._take(until)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _take(self, until: float) -> dict[str, Any]:
        """Returns the next message of the browser, after looking at what it says of the page."""
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium said nothing for {self._seconds:.0f} seconds")
            part = os.read(self._from, 1 << 16)
            if not part:
                raise RuntimeError("Chromium ended")
            self._received += part
        line, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, said: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(said["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif event == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(each.get("value")) for each in said["args"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])
        elif event == "Network.requestWillBeSent" and said["type"] != "Document":
            self.requests.append(said["request"]["url"])

"""A real Chromium without a window, and what it reports about a page."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PHONE = (375, 740)
SCREEN = (1280, 900)


def program(name: str) -> str:
    """Find a program. A missing one is a failure where ``CI=true`` and a skip at home."""
    path = shutil.which(name)
    if path is not None:
        return path
    missing = f"there is no {name} on this machine (Debian: chromium, chromium-driver)"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


class Browser:
    """Chromium, driven by its own driver."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = program("chromium")
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(program("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)

    def show(self, page: Path | str, size: tuple[int, int] = SCREEN, scheme: str = "light") -> None:
        """Open a file, or an address."""
        self.become(size, scheme)
        self.console(), self.requested()  # Discards what earlier pages left behind.
        self.driver.get(page if isinstance(page, str) else page.as_uri())

    def become(self, size: tuple[int, int] = SCREEN, scheme: str = "light") -> None:
        """Take a size, and a colour scheme, as a user's system asks for it."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)
        self.cdp("Emulation.setEmulatedMedia", **wish)

    def cdp(self, command: str, **parameters: Any) -> Any:
        """Run a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        return str(self.driver.find_element(By.CSS_SELECTOR, selector).text)

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self) -> list[str]:
        """Return the URLs that were requested since the last call."""
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def sideways(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        # The client's width is what a vertical scroll bar leaves.
        beyond = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
        return int(self.run(beyond))

"""A headless Chromium for tests of pages: it runs offline and keeps what pages write to the console."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str:
    """Path of a Chromium: that of CHROMIUM, or else the first of `NAMES` on PATH. Without one, the test is skipped."""
    named = os.environ.get("CHROMIUM", "")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), "")
    if not found:
        pytest.skip("needs a Chromium: install Debian's package `chromium`, or name the file of one in CHROMIUM")
    return found


@contextmanager
def opened(page_file: Path, width: int) -> Iterator[tuple[Page, list[str]]]:
    """Yield a page, `width` pixels wide and without a network, and the list of its errors, messages and requests."""
    path = executable()
    with sync_playwright() as playwright:
        # A container's root has no sandbox, and its /dev/shm may be too small.
        browser = playwright.chromium.launch(executable_path=path, args=["--disable-dev-shm-usage"])
        try:
            context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
            page = context.new_page()
            told: list[str] = []
            page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: told.append(f"error: {error}"))
            page.on("request", lambda request: told.append(request.url) if request.url.startswith("http") else None)
            page.goto(page_file.as_uri(), wait_until="load")
            yield page, told
        finally:
            browser.close()

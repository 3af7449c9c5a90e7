"""A picture of each page at three widths, light and dark, for people to look at: `make screenshots`.

Of a server that runs without authentication, such as the demo's: `make screenshots ARGS="--base http://127.0.0.1:8080"`.
Says what a browser's console complains of, and what is wider than its screen.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

WIDTHS: Final = (320, 768, 1440)
PATHS: Final = (
    "/overview",
    "/chargeback",
    "/chargeback?range=last-7-days&tenant=acme-retail&by=application&then=model",
    "/filters",
    "/charges?range=last-7-days",
    "/application",
    "/application?range=last-7-days&application=assistant",
    "/slo",
    "/budgets?budget=acme-retail-month&limit=50",
    "/rejects",
    "/rejects/matching",
    "/rate-cards",
    "/pipeline",
    "/audit",
    "/sign-in",
    "/docs",
    "/nowhere",
)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("paths", nargs="*", help="of pages; none: all")
    asked.add_argument("--base", default="http://127.0.0.1:8080", help="of the server")
    asked.add_argument("--into", type=Path, default=Path("screenshots"))
    given = asked.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in ("light", "dark"):
            for width in WIDTHS:
                context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
                page = context.new_page()
                page.on("console", lambda message: print(f"{message.type}: {message.text} {message.location}"))
                for path in given.paths or PATHS:
                    page.goto(given.base + path, wait_until="networkidle")
                    beyond = page.evaluate("document.documentElement.scrollWidth") - width
                    if beyond > 0:
                        print(f"{path} is {beyond} px wider than {width}")
                    name = re.sub(r"\W+", "-", path).strip("-")
                    page.screenshot(path=given.into / f"{name}-{width}-{theme}.png", full_page=True)
                context.close()
        browser.close()


if __name__ == "__main__":
    main()

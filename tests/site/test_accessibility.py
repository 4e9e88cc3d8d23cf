"""axe-core reads every page as a screen reader's user meets it: nothing serious, nothing critical."""

import pytest

from tests.site.test_browser import LESSONS, PAGES

# Opened first, so that what is folded is looked at too.
OPENED = "document.querySelectorAll('article details').forEach((details) => { details.open = true; })"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing_serious(visit, page, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab = visit(page, theme)
    if page in LESSONS:
        tab.evaluate(OPENED)
        tab.wait_for_timeout(
            700
        )  # what was folded fades in; half-way its colours are not those that are read
    found = axe.run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    assert [
        (
            rule["id"],
            rule["impact"],
            rule["help"],
            [
                (node["html"][:120], node["any"][0]["message"][:200] if node["any"] else "")
                for node in rule["nodes"]
            ][:3],
        )
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ] == []

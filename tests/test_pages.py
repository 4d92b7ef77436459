"""The report and DVC's plots in headless Chromium, offline, at the widths of a phone and of a desktop."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from dvc.repo import Repo

from stages.commands import plots_page
from tests.conftest import REPO, run
from tests.support import artifacts, browser

PHONE, DESKTOP = 390, 1280

OVERFLOWING = """() => [...document.querySelectorAll("body *")].filter(
    element => !element.closest(".scroll, pre, svg") && element.getBoundingClientRect().right > innerWidth + 1
).map(element => element.outerHTML.slice(0, 100))"""


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with targets in each state, and classes with long names."""
    workspace = artifacts.make_workspace(tmp_path_factory.mktemp("report"))
    cfg = artifacts.make_config()
    cfg.targets |= {"ada": cfg.targets["rtx"], "orin": cfg.targets["rtx"]}
    stale = {**artifacts.engine("orin", ["8.7"]), "file": "o" * 60}
    artifacts.write(workspace / "data/metrics/engine_orin.json", stale)
    artifacts.build(workspace, cfg)
    return workspace / "data/report/index.html"


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_report_fits_and_says_nothing_to_the_console(report_page: Path, width: int) -> None:
    with browser.opened(report_page, width) as (page, told):
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert page.evaluate(OVERFLOWING) == []
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert told == []


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_report_is_accessible(report_page: Path, width: int) -> None:
    """By all rules of axe-core, the best practices too."""
    with browser.opened(report_page, width) as (page, _):
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        found = Axe().run(page).response
    assert found["passes"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found["violations"]] == []


def test_each_drawing_is_labelled_and_each_heading_scoped(report_page: Path) -> None:
    with browser.opened(report_page, DESKTOP) as (page, _):
        labels = page.evaluate(
            """() => [...document.querySelectorAll("svg")].map(svg => [svg.getAttribute("role"), ...svg.getAttribute(
            "aria-labelledby").split(" ").map(id => document.getElementById(id).textContent.trim())])"""
        )
        assert len(labels) == 8
        assert len({title for _, title, _ in labels}) == 7, "two distributions of latencies"
        for role, title, description in labels:
            assert (role, bool(title), bool(description)) == ("img", True, True)
        assert page.locator("th").count() > 20
        assert page.locator("th:not([scope])").count() == 0


@pytest.fixture(scope="module")
def plots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that `make plots` writes with the plots of dvc.yaml and the page of `make env`."""
    root = tmp_path_factory.mktemp("plots")
    history = "epoch,train_loss,val_loss,val_miou\n1,9.5,,\n2,8.5,8.0,0.25\n3,8.25,,\n4,8.125,7.5,0.5\n"
    artifacts.write(root / "data/checkpoint/history.csv", history)
    classes = "class,isthing,pq,iou,ap\ncar,1,50.0,60.0,25.0\nsky,0,75.0,80.0,\n"
    artifacts.write(root / "data/evaluate/per_class.csv", classes)
    artifacts.write(root / "data/evaluate/confusion.csv", "actual,predicted,share_pct\ncar,sky,12.5\ncar,car,87.5\n")
    defined = yaml.safe_load((REPO / "dvc.yaml").read_text())["plots"]
    artifacts.write(root / "dvc.yaml", yaml.safe_dump({"plots": defined}, sort_keys=False))
    Repo.init(str(root), no_scm=True).close()
    shutil.copytree(REPO / ".dvc/plots", root / ".dvc/plots", dirs_exist_ok=True)
    plots_page.write(root / ".venv/plots.html")
    (root / "scripts").mkdir()
    shutil.copyfile(REPO / "Makefile", root / "Makefile")
    for name in ("pyproject.toml", "uv.lock", "scripts/env"):
        (root / name).touch()
        os.utime(root / name, (0, 0))
    # Later than the settings that are written below: the environment is in step.
    (root / ".venv/.locked").touch()
    os.utime(root / ".venv/.locked", (2**31, 2**31))
    for command in (("dvc", "config", "--local", "plots.html_template", "../.venv/plots.html"), ("make", "plots")):
        done = run(*command, cwd=root)
        assert done.returncode == 0, done.stderr
    return root / "outputs/plots/index.html"


def test_all_plots_are_drawn_offline(plots: Path) -> None:
    titles = [next(iter(plot)) for plot in yaml.safe_load((REPO / "dvc.yaml").read_text())["plots"]]
    with browser.opened(plots, DESKTOP) as (page, told):
        page.wait_for_function(f"document.querySelectorAll('canvas, svg.marks').length >= {len(titles)}")
        assert [each for each in told if not each.startswith("warning: ")] == []
        assert page.locator("main > div").count() == len(titles)


MARKS = """async ([id, spec]) => {
    const {view} = await vegaEmbed("#" + id, spec, {renderer: "svg"});
    const found = [];
    const visit = item => {
        if (item.marktype && ["symbol", "rect"].includes(item.marktype) && item.role === "mark")
            found.push(...item.items.map(each => each.datum));
        (item.items || []).forEach(visit);
    };
    visit(view.scenegraph().root);
    return found;
}"""


def test_gaps_of_a_table_are_not_drawn_as_zeros(plots: Path) -> None:
    """The marks that Vega makes of each plot's data."""
    specs = re.findall(r"var spec = (.*);\n\s*vegaEmbed\('#(\w+)'", plots.read_text())
    with browser.opened(plots, DESKTOP) as (page, _):
        drawn = {name: page.evaluate(MARKS, [name, json.loads(spec)]) for spec, name in specs}
    assert [mark["class"] for mark in drawn["AP_by_class"]] == ["car"]
    assert {mark["class"] for mark in drawn["PQ_by_class"]} == {"car", "sky"}
    assert sorted(float(mark["val_miou"]) for mark in drawn["validation_mIoU_by_TAO"]) == [0.25, 0.5]
    losses = [float(mark["dvc_inferred_y_value"]) for mark in drawn["training_loss"]]
    assert sorted(losses) == [7.5, 8.0, 8.125, 8.25, 8.5, 9.5]

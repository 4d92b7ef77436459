"""plots_page: write the page into which `dvc plots` puts its plots, with the scripts of Vega inside.

DVC's own page loads Vega from the network and is blank without one. `make env` runs this, and names the file in DVC's
local config as plots.html_template. The file, 0.9 MB, is not in Git. Vega's scripts come from the package vl-convert.
"""

from pathlib import Path

from stages.foundation import command_line, files

VEGA_LITE = "6.4"
"""Version of Vega-Lite, of the major version that .dvc/plots names as its $schema."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>Plots of the pipeline</title>
<style>
body { margin: 24px; font: 15px/1.5 system-ui, sans-serif; }
main { display: grid; gap: 32px; }
main > div { overflow-x: auto; }
table { border-spacing: 15px; }
</style>
<script>{vega}</script>
</head>
<body>
<main>
{plot_divs}
</main>
</body>
</html>
"""
"""DVC fills the names in braces, apart from vega."""


def write(out: Path) -> None:
    """Write the page to the file `out`."""
    import vl_convert

    # In a page, this text would end the script that it stands in.
    scripts = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE).replace(
        "</script", r"<\/script"
    )
    with files.atomic_write(out) as draft:
        draft.write_text(PAGE.replace("{vega}", scripts), encoding="utf-8")


def main() -> None:
    """Command line of `make env`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="HTML file")
    write(parser.parse_args().out)


if __name__ == "__main__":
    command_line.run(main)
